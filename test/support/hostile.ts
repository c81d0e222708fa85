import { type ChildProcess, spawn } from 'node:child_process';
import { chownSync, mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';

/** Another user of the machine, who means harm. No account is needed: a process can have any user id. */
export const HOSTILE = { uid: 64_000, gid: 64_000 };

/** A directory that the hostile user owns. */
export function hostileDirectory(path: string): string {
  mkdirSync(path, { mode: 0o755 });
  chownSync(path, HOSTILE.uid, HOSTILE.gid);
  return path;
}

/** Runs JavaScript as the hostile user. */
export function runHostile(code: string, args: readonly string[] = []): ChildProcess {
  return spawn(process.execPath, ['-e', code, ...args], { ...HOSTILE, cwd: '/', stdio: ['ignore', 'pipe', 'inherit'] });
}

/**
 * Makes `name` in a directory of the hostile user's a directory and a symbolic link to `victim` in turn, as fast as the hostile
 * user can, until the returned function is called. The directory holds a subdirectory `inside`.
 */
export async function swapForLink(
  directory: string,
  name: string,
  victim: string,
  inside: string,
): Promise<() => Promise<void>> {
  const honest = hostileDirectory(join(directory, name));
  hostileDirectory(join(honest, inside));
  const link = join(directory, `${name}.link`);
  symlinkSync(victim, link);
  const child = runHostile(
    `const { renameSync } = require('fs');
     const [path] = process.argv.slice(1);
     process.stdout.write('begun');
     for (;;) {
       renameSync(path, path + '.directory');
       renameSync(path + '.link', path);
       renameSync(path, path + '.link');
       renameSync(path + '.directory', path);
     }`,
    [join(directory, name)],
  );
  await new Promise((resolve) => child.stdout!.once('data', resolve));
  return async () => {
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await ended;
  };
}
