import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ClipError } from '../bytes/index.js';
import { type FileUser, withFilePermissionsOf } from '../linux/index.js';
import type { Credentials, RegistryCredentialProvider } from './credentials.js';
import { asObject } from './docker-config.js';
import { type Json, parseJsonObject } from './manifest.js';
import { runCredentialProgram } from './run-credential-program.js';

/*
 * The kubelet's credential provider plugins
 * (https://kubernetes.io/docs/tasks/administer-cluster/kubelet-credential-provider/): which are there is in a file of kind
 * CredentialProviderConfig, and each is a program that gets a request as JSON and answers with logins.
 */

const API_VERSION = /^credentialprovider\.kubelet\.k8s\.io\/v1(?:alpha1|beta1)?$/;
/** Lists a handful of plugins. */
const MAX_CONFIG_BYTES = 1024 * 1024;

interface Plugin {
  readonly name: string;
  readonly matchImages: readonly string[];
  readonly apiVersion: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

/**
 * Whether a pattern of `matchImages` or of an answer's `auth` stands for an image: each label of the host matches by itself (`*`
 * inside a label only), ports are equal, and the path is a prefix. As pkg/credentialprovider of Kubernetes does it.
 */
export function matchesImage(pattern: string, registry: string, repository: string): boolean {
  const [wanted = '', ...path] = pattern.replace(/^https?:\/\//, '').split('/');
  const split = (host: string): [labels: string[], port: string] => {
    const match = /^(.*?)(?::(\d+))?$/.exec(host)!;
    return [match[1]!.split('.'), match[2] ?? ''];
  };
  const [labels, port] = split(wanted);
  const [found, foundPort] = split(registry);
  if (labels.length !== found.length || port !== foundPort) return false;
  const label = (glob: string): RegExp =>
    new RegExp(
      `^${glob
        .split('*')
        .map((part) => part.replaceAll(/[^A-Za-z0-9-]/g, '\\$&'))
        .join('.*')}$`,
    );
  if (!labels.every((glob, i) => label(glob).test(found[i]!))) return false;
  const prefix = path.filter((part) => part !== '').join('/');
  return prefix === '' || repository.startsWith(prefix);
}

function texts(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((item): item is string => typeof item === 'string') : [];
}

function parsePlugin(value: unknown, where: string): Plugin {
  const { name, matchImages, apiVersion, args, env } = asObject(value);
  if (typeof name !== 'string' || !/^[\w.-]+$/.test(name) || name.startsWith('.')) {
    throw new ClipError('BAD_FORMAT', `${where}: a provider's name must be the name of a program, without a path`);
  }
  if (typeof apiVersion !== 'string' || !API_VERSION.test(apiVersion)) {
    throw new ClipError('UNSUPPORTED', `${where}: provider ${name} has the apiVersion ${JSON.stringify(apiVersion)}`, {
      hint: 'clip speaks credentialprovider.kubelet.k8s.io/v1',
    });
  }
  const variables = (Array.isArray(env) ? env : []).map((entry) => {
    const variable = asObject(entry);
    return [String(variable.name), String(variable.value)] as const;
  });
  return { name, matchImages: texts(matchImages), apiVersion, args: texts(args), env: Object.fromEntries(variables) };
}

/** Logins from the plugins that CLIP_CREDENTIAL_PROVIDER_CONFIG and CLIP_CREDENTIAL_PROVIDER_BIN_DIR name. */
export class CredentialPlugins implements RegistryCredentialProvider {
  readonly name = 'kubelet-plugins';
  readonly #env: NodeJS.ProcessEnv;
  readonly #user: FileUser | null;

  constructor(env: NodeJS.ProcessEnv, user: FileUser | null) {
    this.#env = env;
    this.#user = user;
  }

  async getCredentials(registry: string, repository: string): Promise<Credentials | null> {
    const config = this.#env.CLIP_CREDENTIAL_PROVIDER_CONFIG;
    if (!config) return null;
    const directory = this.#env.CLIP_CREDENTIAL_PROVIDER_BIN_DIR;
    if (!directory) {
      throw new ClipError('USAGE', `the plugins of ${config} are in no directory`, {
        hint: 'add --credential-provider-bin-dir DIR',
      });
    }
    // Docker Hub's images are docker.io/NAME for the kubelet.
    for (const plugin of await this.#plugins(config)) {
      if (!plugin.matchImages.some((pattern) => matchesImage(pattern, registry, repository))) continue;
      const found = await this.#ask(plugin, join(directory, plugin.name), `${registry}/${repository}`, [
        registry,
        repository,
      ]);
      if (found !== null) return found;
    }
    return null;
  }

  async #plugins(path: string): Promise<Plugin[]> {
    let text: string;
    try {
      const read = (): Buffer => readFileSync(path);
      const bytes = this.#user === null ? read() : withFilePermissionsOf(this.#user, read);
      if (bytes.length > MAX_CONFIG_BYTES)
        throw new ClipError('LIMIT', `${path} is longer than ${MAX_CONFIG_BYTES} bytes`);
      text = bytes.toString('utf8');
    } catch (cause) {
      if (cause instanceof ClipError) throw cause;
      throw new ClipError('PERMISSION', `cannot read ${path}: ${(cause as NodeJS.ErrnoException).code}`, {
        cause,
        hint: 'give a readable file to --credential-provider-config',
      });
    }
    const { parse } = await import('yaml');
    let json: Json;
    try {
      json = asObject(parse(text, { maxAliasCount: 100 }));
    } catch (cause) {
      throw new ClipError('BAD_FORMAT', `${path} is not YAML: ${(cause as Error).message.split('\n')[0]}`, { cause });
    }
    if (json.kind !== 'CredentialProviderConfig' || !Array.isArray(json.providers)) {
      throw new ClipError('BAD_FORMAT', `${path} is not of kind CredentialProviderConfig with providers`, {
        hint: 'give the file that the kubelet has as --image-credential-provider-config',
      });
    }
    return json.providers.map((plugin) => parsePlugin(plugin, path));
  }

  async #ask(
    plugin: Plugin,
    program: string,
    image: string,
    [registry, repository]: readonly [string, string],
  ): Promise<Credentials | null> {
    const { apiVersion } = plugin;
    const request = JSON.stringify({ apiVersion, kind: 'CredentialProviderRequest', image });
    const { status, stdout, stderr } = await runCredentialProgram(
      program,
      plugin.args,
      request,
      { ...this.#env, ...plugin.env },
      this.#user,
      'the credential provider config',
    );
    if (status !== 0) {
      const words = (stderr.trim() || `exit code ${status}`).split('\n')[0]!.slice(0, 200);
      throw new ClipError('UNAUTHORIZED', `the credential provider ${program} has no login for ${image}: ${words}`);
    }
    let json: Json;
    try {
      json = parseJsonObject(Buffer.from(stdout), 'answer');
    } catch {
      // The parser's error quotes the text, which holds passwords.
      throw new ClipError('BAD_FORMAT', `the answer of the credential provider ${program} is not JSON`);
    }
    if (json.kind !== 'CredentialProviderResponse' || json.apiVersion !== apiVersion) {
      throw new ClipError(
        'BAD_FORMAT',
        `the answer of ${program} is not a CredentialProviderResponse of ${apiVersion}`,
      );
    }
    // The longest pattern is the most precise one.
    const patterns = Object.keys(asObject(json.auth)).sort((a, b) => b.length - a.length);
    const key = patterns.find((pattern) => matchesImage(pattern, registry, repository));
    if (key === undefined) return null;
    const { username, password } = asObject(asObject(json.auth)[key]);
    return typeof username === 'string' && typeof password === 'string' ? { username, password } : null;
  }
}
