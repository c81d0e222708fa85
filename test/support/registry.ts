import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Certificates, makeCertificates } from './certificates.js';
import { freePort, run } from './processes.js';
import { startTokenServer, type TokenServer } from './token-server.js';

/** The one login of a test registry with authentication; the hash is bcrypt, the only kind docker-registry takes. */
export const LOGIN = { username: 'clip', password: 'secret' };
const HTPASSWD = 'clip:$2b$05$clipclipclipclipclipcu8Em64q8FplIS4Ajs/rM2YM2c2V0wPoe\n';

export interface RegistryOptions {
  /** A certificate from a CA of its own. */
  readonly tls?: boolean;
  /** basic: htpasswd with {@link LOGIN}. token: Bearer tokens from a token server with the same login. */
  readonly auth?: 'none' | 'basic' | 'token';
  /** For auth: token. Seconds a token is valid; docker-registry itself allows a minute more. */
  readonly tokenSeconds?: number;
  /** For auth: token. Pulls need no login. */
  readonly anonymousPull?: boolean;
}

export interface TestRegistry {
  /** "127.0.0.1:PORT" */
  readonly host: string;
  readonly port: number;
  readonly url: string;
  readonly certificates: Certificates | null;
  readonly tokens: TokenServer | null;
  /** The registry's files, to damage: docker/registry/v2/blobs/sha256/ab/abcd…/data. */
  readonly storage: string;
  /** Where the file of a blob is. */
  blobPath(digest: string): string;
  /** Copies an image of a layout ("oci:DIR:TAG", or another source that skopeo reads) to "name:tag"; "v2s2" are Docker's media types. */
  push(from: string, to: string, format?: 'oci' | 'v2s2'): Promise<void>;
  stop(): Promise<void>;
}

const running = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/** Starts Debian's docker-registry on a free loopback port, with its storage in a temporary directory. */
export async function startRegistry(options: RegistryOptions = {}): Promise<TestRegistry> {
  const directory = await mkdtemp(join(tmpdir(), 'clip-registry-'));
  const storage = join(directory, 'storage');
  await mkdir(storage);
  const certificates = options.tls || options.auth === 'token' ? await makeCertificates(join(directory, 'tls')) : null;
  const tokens =
    options.auth === 'token'
      ? await startTokenServer(certificates!, {
          login: LOGIN,
          seconds: options.tokenSeconds ?? 300,
          anonymousPull: options.anonymousPull ?? false,
        })
      : null;
  const auth = authSection(options, join(directory, 'htpasswd'), tokens, certificates);
  await writeFile(join(directory, 'htpasswd'), HTPASSWD);

  for (let attempt = 0; ; attempt++) {
    const port = await freePort();
    const config = {
      version: '0.1',
      log: { level: 'error' },
      storage: { filesystem: { rootdirectory: storage }, delete: { enabled: true } },
      http: {
        addr: `127.0.0.1:${port}`,
        ...(options.tls && { tls: { certificate: certificates!.serverCert, key: certificates!.serverKey } }),
      },
      ...(auth !== null && { auth }),
    };
    // JSON is YAML.
    const configPath = join(directory, 'config.yml');
    await writeFile(configPath, JSON.stringify(config));
    // It dies with this process, even if that is killed and stop() never runs.
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', 'docker-registry', 'serve', configPath], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    running.add(child);
    let stderr = '';
    child.stderr.on('data', (text: Buffer) => {
      stderr += text.toString();
    });
    const exited = new Promise<void>((resolve) => {
      child.once('error', () => resolve());
      child.once('exit', () => resolve());
    }).then(() => running.delete(child));

    if (!(await listens(port, child))) {
      child.kill('SIGKILL');
      await exited;
      if (attempt < 3) continue; // the port was taken meanwhile
      throw new Error(`docker-registry does not start: ${stderr.trim() || 'is it installed?'}`);
    }
    const host = `127.0.0.1:${port}`;
    return {
      host,
      port,
      url: `${options.tls ? 'https' : 'http'}://${host}`,
      certificates,
      tokens,
      storage,
      blobPath: (digest) => {
        const hex = digest.slice('sha256:'.length);
        return join(storage, 'docker/registry/v2/blobs/sha256', hex.slice(0, 2), hex, 'data');
      },
      push: async (from, to, format) => {
        const login = auth === null ? [] : ['--dest-creds', `${LOGIN.username}:${LOGIN.password}`];
        await run('skopeo', [
          '--insecure-policy',
          'copy',
          '--quiet',
          '--all',
          '--dest-tls-verify=false',
          ...login,
          ...(format === undefined ? [] : ['--format', format]),
          from,
          `docker://${host}/${to}`,
        ]);
      },
      stop: async () => {
        child.kill('SIGTERM');
        const timer = setTimeout(() => child.kill('SIGKILL'), 5_000);
        await exited;
        clearTimeout(timer);
        await tokens?.stop();
        await rm(directory, { recursive: true, force: true });
      },
    };
  }
}

function authSection(
  options: RegistryOptions,
  htpasswd: string,
  tokens: TokenServer | null,
  certificates: Certificates | null,
): Record<string, unknown> | null {
  if (options.auth === 'basic') return { htpasswd: { realm: 'clip tests', path: htpasswd } };
  if (tokens === null) return null;
  return {
    token: {
      realm: tokens.realm,
      service: tokens.service,
      issuer: tokens.issuer,
      rootcertbundle: certificates!.tokenCert,
    },
  };
}

async function listens(port: number, child: ChildProcess): Promise<boolean> {
  const deadline = Date.now() + 15_000;
  while (Date.now() < deadline && child.exitCode === null && child.signalCode === null) {
    const connected = await new Promise<boolean>((resolve) => {
      const socket = connect(port, '127.0.0.1');
      socket.once('connect', () => {
        socket.destroy();
        resolve(true);
      });
      socket.once('error', () => resolve(false));
    });
    if (connected) return true;
    await sleep(20);
  }
  return false;
}
