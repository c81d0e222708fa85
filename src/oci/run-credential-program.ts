import { spawn } from 'node:child_process';
import { ClipError } from '../bytes/index.js';
import type { FileUser } from '../linux/index.js';

/** A program that hangs (a locked keyring that asks for a password) is given up. */
const TIMEOUT_MS = 30_000;
const MAX_OUTPUT = 1024 * 1024;

export interface ProgramOutput {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * Runs a program that knows logins: a credential helper of Docker's, or a plugin of the kubelet's.
 * @param user as whom, if this process is root and the user is not
 * @param from where the program is named, for the error that it is missing
 * @throws ClipError UNAUTHORIZED when it cannot be run or does not end
 */
export function runCredentialProgram(
  program: string,
  args: readonly string[],
  input: string,
  env: NodeJS.ProcessEnv,
  user: FileUser | null,
  from: string,
): Promise<ProgramOutput> {
  const other = user !== null && process.getuid?.() === 0 && user.uid !== 0;
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      env,
      ...(other && { uid: user.uid, gid: user.gid }),
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    // Not spawn's own timeout: when the program cannot be started, that one keeps this process until it is over.
    const timer = setTimeout(() => child.kill('SIGKILL'), TIMEOUT_MS);
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
      if (stdout.length > MAX_OUTPUT) child.kill('SIGKILL');
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      if (stderr.length < 4096) stderr += text;
    });
    child.on('error', (cause) => {
      clearTimeout(timer);
      reject(
        new ClipError(
          'UNAUTHORIZED',
          `the credential helper ${program} cannot be run: ${(cause as NodeJS.ErrnoException).code}`,
          {
            cause,
            hint: `install it, or take it out of ${from}`,
          },
        ),
      );
    });
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      if (signal === null) resolve({ status: code ?? 1, stdout, stderr });
      else
        reject(
          new ClipError(
            'UNAUTHORIZED',
            `the credential helper ${program} did not answer within ${TIMEOUT_MS / 1000} s`,
          ),
        );
    });
    child.stdin.on('error', () => {}); // it may exit without reading
    child.stdin.end(input);
  });
}
