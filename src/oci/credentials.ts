import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { type Check, ClipError, checked } from '../bytes/index.js';
import { type Json, parseJsonObject } from './manifest.js';

/** How to log in to a registry. Plain data: a client resolves it and a daemon uses it. */
export interface Credentials {
  readonly username?: string;
  readonly password?: string;
  /** An OAuth2 refresh token, exchanged for an access token ("identitytoken" in Docker's config). */
  readonly identityToken?: string;
  /** A bearer token used as it is. */
  readonly registryToken?: string;
}

/** Bring your own: asked when a registry demands a login, and again when what it gave has expired. */
export interface RegistryCredentialProvider {
  readonly name: string;
  /** @returns null to go on anonymously; a rejection fails the request. */
  getCredentials(registry: string, repository: string): Promise<Credentials | null>;
}

/** As an option of ours. What is in it is never shown. */
export const credentialsOption: Check<Credentials | RegistryCredentialProvider | null> = checked(
  'null, { username, password }, or an object with getCredentials()',
  (value) => {
    if (value === null) return true;
    if (typeof value !== 'object' || Array.isArray(value)) return false;
    const { getCredentials, username, password, identityToken, registryToken } = value as Record<string, unknown>;
    const texts = [username, password, identityToken, registryToken];
    return getCredentials === undefined
      ? texts.every((text) => text === undefined || typeof text === 'string')
      : typeof getCredentials === 'function';
  },
);

interface HelperUser {
  readonly uid: number;
  readonly gid: number;
}

/** Where and as whom to look credentials up again: plain data, for a daemon that serves this user's mounts. */
export interface CredentialLookup extends HelperUser {
  readonly env: Readonly<Record<string, string>>;
}

/** What config files and helpers (of keyrings and clouds) are found by and go by; nothing else of an environment is passed on. */
const LOOKUP_VARIABLES =
  /^(PATH|HOME|USER|LOGNAME|LANG|DOCKER_CONFIG|REGISTRY_AUTH_FILE|DBUS_SESSION_BUS_ADDRESS|GNUPGHOME|(XDG|PASSWORD_STORE|AWS|GOOGLE|CLOUDSDK|GCLOUD|AZURE|ACR)_\w+|(https?|no|all)_proxy)$/i;

export function captureLookup(env: NodeJS.ProcessEnv): CredentialLookup {
  const passed = Object.entries(env).filter(
    (entry): entry is [string, string] => entry[1] !== undefined && LOOKUP_VARIABLES.test(entry[0]),
  );
  return { env: Object.fromEntries(passed), uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
}

/** Credentials that were resolved elsewhere; once they are refused, looked up again where they came from. */
export class CapturedCredentials implements RegistryCredentialProvider {
  readonly name = 'captured';
  readonly #lookup: DockerCredentials;
  #captured: Credentials | null | undefined;

  constructor(captured: Credentials | null, lookup: CredentialLookup) {
    this.#captured = captured;
    this.#lookup = new DockerCredentials({ ...lookup.env }, lookup);
  }

  async getCredentials(registry: string, repository: string): Promise<Credentials | null> {
    const captured = this.#captured;
    this.#captured = undefined;
    return captured === undefined ? this.#lookup.getCredentials(registry, repository) : captured;
  }
}

/** A credential helper that hangs (a locked keyring asking for a password) must not hang us. */
const HELPER_TIMEOUT_MS = 30_000;
const MAX_HELPER_OUTPUT = 1024 * 1024;
/** Docker Hub's key in config files and for helpers. */
const HUB_KEY = 'https://index.docker.io/v1/';

/**
 * Credentials from the files that docker, podman and skopeo write: REGISTRY_AUTH_FILE alone if it is set; otherwise
 * Podman's $XDG_RUNTIME_DIR/containers/auth.json, then $DOCKER_CONFIG/config.json (default ~/.docker).
 */
export class DockerCredentials implements RegistryCredentialProvider {
  readonly name = 'docker-config';
  readonly #env: NodeJS.ProcessEnv;
  readonly #user: HelperUser | null;

  /** @param user whom helpers run as, when this process is root and they are not */
  constructor(env: NodeJS.ProcessEnv = process.env, user: HelperUser | null = null) {
    this.#env = env;
    this.#user = user;
  }

  #files(): { path: string; required: boolean }[] {
    const env = this.#env;
    if (env.REGISTRY_AUTH_FILE) return [{ path: env.REGISTRY_AUTH_FILE, required: true }];
    const docker = env.DOCKER_CONFIG || join(env.HOME || homedir(), '.docker');
    const runtime = env.XDG_RUNTIME_DIR;
    return [
      ...(runtime ? [{ path: join(runtime, 'containers/auth.json'), required: false }] : []),
      { path: join(docker, 'config.json'), required: false },
    ];
  }

  async getCredentials(registry: string, repository: string): Promise<Credentials | null> {
    for (const { path, required } of this.#files()) {
      let bytes: Uint8Array;
      try {
        bytes = await readFile(path);
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
    const { status, stdout, stderr } = await run(program, server, this.#env, this.#user);
    if (status !== 0) {
      // credentials/error.go: the two texts that mean "none stored", printed on stdout.
      if (/credentials not found|no credentials server URL|no credentials username/i.test(stdout)) return null;
      const words = (stdout.trim() || stderr.trim() || `exit code ${status}`).split('\n')[0]!.slice(0, 200);
      throw new ClipError('UNAUTHORIZED', `${program} gives no login for ${server}: ${words}`, {
        hint: `run: echo ${server} | ${program} get`,
      });
    }
    const json = parseJsonObject(Buffer.from(stdout), `the output of ${program}`);
    const username = json.Username;
    const secret = json.Secret;
    if (typeof secret !== 'string' || secret === '') return null;
    if (username === '<token>') return { identityToken: secret };
    return typeof username === 'string' ? { username, password: secret } : null;
  }
}

function run(
  program: string,
  input: string,
  env: NodeJS.ProcessEnv,
  user: HelperUser | null,
): Promise<{ status: number; stdout: string; stderr: string }> {
  const other = user !== null && process.getuid?.() === 0 && user.uid !== 0;
  return new Promise((resolve, reject) => {
    const child = spawn(program, ['get'], {
      env,
      ...(other && { uid: user.uid, gid: user.gid }),
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    // Not spawn's own timeout: when the program cannot be started, that one keeps this process until it is over.
    const timer = setTimeout(() => child.kill('SIGKILL'), HELPER_TIMEOUT_MS);
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
      if (stdout.length > MAX_HELPER_OUTPUT) child.kill('SIGKILL');
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
            hint: 'install it, or take it out of credHelpers/credsStore in the Docker config',
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
            `the credential helper ${program} did not answer within ${HELPER_TIMEOUT_MS / 1000} s`,
          ),
        );
    });
    child.stdin.on('error', () => {}); // a helper may exit without reading
    child.stdin.end(`${input}\n`);
  });
}

function parseConfig(bytes: Uint8Array, path: string): Json {
  try {
    return parseJsonObject(bytes, `the registry logins in ${path}`);
  } catch (cause) {
    throw new ClipError('BAD_FORMAT', (cause as Error).message, {
      cause,
      hint: 'repair the file, or move it away and log in again: docker login',
    });
  }
}

function asObject(value: unknown): Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Json) : {};
}

/** Longest match first: containers-auth.json(5) allows host/namespace/repository keys; Docker writes hosts, or URLs of old. */
function findAuth(auths: Json, registry: string, repository: string): Json | null {
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

function parseAuth(entry: Json, where: string): Credentials | null {
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
