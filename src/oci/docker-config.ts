import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { ClipError } from '../bytes/index.js';
import { type FileUser, withFilePermissionsOf } from '../linux/index.js';
import type { Credentials, RegistryCredentialProvider } from './credentials.js';
import { type Json, parseJsonObject } from './manifest.js';
import { runCredentialProgram } from './run-credential-program.js';

/** Docker Hub's key in config files and for helpers. */
const HUB_KEY = 'https://index.docker.io/v1/';

/**
 * Credentials from the files that docker, podman and skopeo write: REGISTRY_AUTH_FILE alone if it is set; otherwise Podman's
 * $XDG_RUNTIME_DIR/containers/auth.json and ~/.config/containers/auth.json, then $DOCKER_CONFIG/config.json (default ~/.docker).
 */
export class DockerCredentials implements RegistryCredentialProvider {
  readonly name = 'docker-config';
  readonly #env: NodeJS.ProcessEnv;
  readonly #user: FileUser | null;

  /** @param user who may read the files, and as whom helpers run, when this process is another user's */
  constructor(env: NodeJS.ProcessEnv = process.env, user: FileUser | null = null) {
    this.#env = env;
    this.#user = user;
  }

  #files(): { path: string; required: boolean }[] {
    const env = this.#env;
    if (env.REGISTRY_AUTH_FILE) return [{ path: env.REGISTRY_AUTH_FILE, required: true }];
    const home = env.HOME || homedir();
    const docker = env.DOCKER_CONFIG || join(home, '.docker');
    const runtime = env.XDG_RUNTIME_DIR;
    const config = env.XDG_CONFIG_HOME || join(home, '.config');
    return [
      ...(runtime ? [{ path: join(runtime, 'containers/auth.json'), required: false }] : []),
      { path: join(config, 'containers/auth.json'), required: false },
      { path: join(docker, 'config.json'), required: false },
    ];
  }

  async getCredentials(registry: string, repository: string): Promise<Credentials | null> {
    for (const { path, required } of this.#files()) {
      let bytes: Uint8Array;
      try {
        const user = this.#user;
        bytes = user === null ? readFileSync(path) : withFilePermissionsOf(user, () => readFileSync(path));
      } catch (cause) {
        const code = (cause as NodeJS.ErrnoException).code;
        if (!required && (code === 'ENOENT' || code === 'ENOTDIR')) continue;
        throw new ClipError('PERMISSION', `cannot read the registry logins in ${path}: ${code}`, {
          cause,
          hint: 'make it readable, or name another: REGISTRY_AUTH_FILE or DOCKER_CONFIG',
        });
      }
      if (bytes.length === 0) continue;
      const found = await this.#fromConfig(parseConfig(bytes, path), path, registry, repository);
      if (found !== null) return found;
    }
    return null;
  }

  async #fromConfig(config: Json, path: string, registry: string, repository: string): Promise<Credentials | null> {
    const hub = registry === 'docker.io';
    const helpers = asObject(config.credHelpers);
    const named = hub ? (helpers[HUB_KEY] ?? helpers['docker.io'] ?? helpers['index.docker.io']) : helpers[registry];
    if (typeof named === 'string') return this.#runHelper(named, hub ? HUB_KEY : registry);

    const store = config.credsStore;
    if (typeof store === 'string' && store !== '') {
      const found = await this.#runHelper(store, hub ? HUB_KEY : registry);
      if (found !== null) return found;
    }
    const entry = findAuth(asObject(config.auths), registry, repository);
    return entry === null ? null : parseAuth(entry, `${path}: auths for ${registry}`);
  }

  /** The docker-credential-helpers protocol: the server on stdin of "get", JSON on stdout. */
  async #runHelper(helper: string, server: string): Promise<Credentials | null> {
    const program = `docker-credential-${helper}`;
    if (!/^[\w.-]+$/.test(helper))
      throw new ClipError('BAD_FORMAT', `"${helper}" in the Docker config is not a credential helper`, {
        hint: 'take it out of credHelpers or credsStore there',
      });
    const { status, stdout, stderr } = await runCredentialProgram(
      program,
      ['get'],
      `${server}\n`,
      this.#env,
      this.#user,
      'credHelpers/credsStore in the Docker config',
    );
    if (status !== 0) {
      // credentials/error.go: the two texts that mean "none stored", printed on stdout.
      if (/credentials not found|no credentials server URL|no credentials username/i.test(stdout)) return null;
      const words = (stdout.trim() || stderr.trim() || `exit code ${status}`).split('\n')[0]!.slice(0, 200);
      throw new ClipError('UNAUTHORIZED', `${program} gives no login for ${server}: ${words}`, {
        hint: `run: echo ${server} | ${program} get`,
      });
    }
    const json = parseOutput(stdout, program);
    const username = json.Username;
    const secret = json.Secret;
    if (typeof secret !== 'string' || secret === '') return null;
    if (username === '<token>') return { identityToken: secret };
    return typeof username === 'string' ? { username, password: secret } : null;
  }
}

function parseOutput(stdout: string, program: string): Json {
  try {
    return parseJsonObject(Buffer.from(stdout), 'output');
  } catch {
    throw new ClipError('BAD_FORMAT', `the output of ${program} is not JSON`, { hint: 'reinstall the helper' });
  }
}

/** Its own error in place of the parser's, which quotes the text: that holds passwords. */
function parseConfig(bytes: Uint8Array, path: string): Json {
  try {
    return parseJsonObject(bytes, path);
  } catch (error) {
    const at = /position \d+/.exec((error as Error).message)?.[0];
    throw new ClipError(
      'BAD_FORMAT',
      `the registry logins in ${path} are not JSON${at === undefined ? '' : ` (${at})`}`,
      {
        hint: 'repair the file, or move it away and log in again: docker login',
      },
    );
  }
}

export function asObject(value: unknown): Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Json) : {};
}

/** Longest match first: containers-auth.json(5) allows host/namespace/repository keys; Docker writes hosts, or URLs of old. */
export function findAuth(auths: Json, registry: string, repository: string): Json | null {
  const hosts = registry === 'docker.io' ? ['docker.io', 'index.docker.io', 'registry-1.docker.io'] : [registry];
  const entries = Object.entries(auths).map(([key, value]) => [normalizeKey(key), value] as const);
  const parts = repository.split('/');
  for (let n = parts.length; n >= 0; n--) {
    for (const host of hosts) {
      const wanted = [host, ...parts.slice(0, n)].join('/');
      for (const [key, value] of entries) {
        if (key === wanted && Object.keys(asObject(value)).length > 0) return asObject(value);
      }
    }
  }
  return null;
}

/** "https://index.docker.io/v1/" and "host/v2" are hosts. */
function normalizeKey(key: string): string {
  return key
    .replace(/^https?:\/\//i, '')
    .replace(/\/+$/, '')
    .replace(/\/v[12]$/, '');
}

export function parseAuth(entry: Json, where: string): Credentials | null {
  const text = (key: string): string | undefined =>
    typeof entry[key] === 'string' && entry[key] !== '' ? (entry[key] as string) : undefined;
  const identityToken = text('identitytoken');
  if (identityToken !== undefined) return { identityToken };
  const registryToken = text('registrytoken');
  if (registryToken !== undefined) return { registryToken };
  const auth = text('auth');
  if (auth !== undefined) {
    const decoded = Buffer.from(auth, 'base64').toString('utf8').replace(/\0+$/, '');
    const colon = decoded.indexOf(':');
    if (colon < 0)
      throw new ClipError('BAD_FORMAT', `${where}: "auth" is not base64 of user:password`, {
        hint: 'docker login again',
      });
    return { username: decoded.slice(0, colon), password: decoded.slice(colon + 1) };
  }
  const username = text('username');
  const password = text('password');
  return username !== undefined && password !== undefined ? { username, password } : null;
}
