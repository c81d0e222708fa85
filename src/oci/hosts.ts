import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { ClipError } from '../bytes/index.js';
import type { Credentials } from './credentials.js';
import { asObject } from './docker-config.js';
import type { Json } from './manifest.js';
import { apiHost } from './reference.js';

/*
 * containerd's host configuration (its page hosts.md): which hosts stand in front
 * of a registry, and how each is reached.
 */

export const DEFAULT_HOSTS_DIRECTORY = '/etc/containerd/certs.d';
/** A handful of mirrors; certificates are in files of their own. */
const MAX_FILE_BYTES = 1024 * 1024;

export type Capability = 'pull' | 'resolve' | 'push';
const ALL: readonly Capability[] = ['pull', 'resolve', 'push'];

/** One host that has a registry's content. Plain data, for another process to use. */
export interface RegistryHost {
  /** What its API is below, such as "https://mirror.example.com/v2/"; null: of the registry itself, as its name says. */
  readonly base: string | null;
  readonly capabilities: readonly Capability[];
  /** Sent as ?ns=, so that a mirror of many registries knows which is meant. */
  readonly namespace: string | null;
  /** PEM. */
  readonly ca: string;
  readonly client: readonly { readonly cert: string; readonly key: string }[];
  readonly skipVerify: boolean;
  readonly headers: Readonly<Record<string, string>>;
  /** Found for this host by the process that captured it. */
  readonly credentials?: Credentials | null;
}

/** The registry itself. */
export const UPSTREAM: RegistryHost = {
  base: null,
  capabilities: ALL,
  namespace: null,
  ca: '',
  client: [],
  skipVerify: false,
  headers: {},
};

/** "host:port" of a host, as logins are kept under. */
export function hostName(host: RegistryHost, registry: string): string {
  return host.base === null ? registry : new URL(host.base).host;
}

/**
 * The hosts for a registry, in the order in which they are asked: the mirrors, then the registry or the `server` in its place.
 * @param directory holds HOST_PORT_/hosts.toml, HOST:PORT/hosts.toml or _default/hosts.toml
 * @throws ClipError BAD_FORMAT, PERMISSION naming the file
 */
export async function hostsFor(registry: string, directory: string): Promise<readonly RegistryHost[]> {
  const names = [registry.replace(/^(.*):(\d+)$/, '$1_$2_'), registry, '_default'];
  const found = names.find((name) => existsSync(join(directory, name)));
  if (found === undefined) return [UPSTREAM];
  const path = join(directory, found, 'hosts.toml');
  const text = readIfThere(path);
  if (text === null) return [UPSTREAM]; // certificates alone: tls-trust.ts finds them
  const { parse } = await import('smol-toml');
  let toml: Json;
  try {
    toml = parse(text);
  } catch (cause) {
    throw bad(path, `not TOML: ${(cause as Error).message.split('\n')[0]}`);
  }
  return parseHosts(toml, path, registry);
}

function parseHosts(toml: Json, path: string, registry: string): RegistryHost[] {
  const mirrors = Object.entries(asObject(toml.host)).map(([url, settings]) =>
    parseHost(url, asObject(settings), path, registry),
  );
  const { server } = toml;
  if (server !== undefined && typeof server !== 'string') throw bad(path, 'server is not a string');
  const upstream = server
    ? parseHost(server, toml, path, registry)
    : { ...parseHost('', toml, path, registry), base: null };
  return [...mirrors, upstream];
}

/** @param url "" for the registry itself */
function parseHost(url: string, settings: Json, path: string, registry: string): RegistryHost {
  const { capabilities = ALL, skip_verify: skipVerify = false, override_path: override = false } = settings;
  const where = url === '' ? 'the server' : `host "${url}"`;
  const known = Array.isArray(capabilities) && capabilities.every((one) => ALL.includes(one as Capability));
  if (!known) throw bad(path, `${where}: capabilities must be a list of "pull", "resolve", "push"`);
  if (typeof skipVerify !== 'boolean') throw bad(path, `${where}: skip_verify is not true or false`);
  const base = url === '' ? null : baseOf(url, override === true, path);
  const proxied = base !== null && new URL(base).host !== apiHost(registry);
  return {
    base,
    capabilities: capabilities as Capability[],
    namespace: proxied ? registry : null,
    ca: listOf(settings.ca)
      .map((file) => readPem(file, path))
      .join('\n'),
    client: clientPairs(settings.client, path),
    skipVerify,
    headers: headersOf(settings.header, path, where),
  };
}

/** A host without a scheme is HTTPS. The API is below /v2, unless the path given is all of it. */
function baseOf(text: string, override: boolean, path: string): string {
  let url: URL;
  try {
    url = new URL(text.includes('://') ? text : `https://${text}`);
  } catch {
    throw bad(path, `"${text}" is not the URL of a host`);
  }
  if (url.protocol !== 'https:' && url.protocol !== 'http:') throw bad(path, `"${text}" is not an http or https URL`);
  const prefix = url.pathname.replace(/\/+$/, '');
  return `${url.origin}${override || prefix.endsWith('/v2') ? prefix : `${prefix}/v2`}/`;
}

function listOf(value: unknown): string[] {
  return (Array.isArray(value) ? value : [value]).filter((item): item is string => typeof item === 'string');
}

/** A file, [file], [[cert, key]]: containerd takes all three. A file alone holds both. */
function clientPairs(value: unknown, path: string): { cert: string; key: string }[] {
  return (Array.isArray(value) ? value : value === undefined ? [] : [value]).map((pair) => {
    const [cert, key] = listOf(pair);
    if (cert === undefined) throw bad(path, 'client is not a file, or a list of [certificate, key]');
    return { cert: readPem(cert, path), key: readPem(key || cert, path) };
  });
}

function headersOf(value: unknown, path: string, where: string): Record<string, string> {
  const headers: Record<string, string> = {};
  for (const [name, content] of Object.entries(asObject(value))) {
    const text = listOf(content).join(', ');
    if (!/^[\w!#$%&'*+.^`|~-]+$/.test(name) || /[\r\n\0]/.test(text))
      throw bad(path, `${where}: header "${name}" cannot be sent`);
    headers[name.toLowerCase()] = text;
  }
  return headers;
}

/** @param from the hosts.toml, whose directory relative names start at */
function readPem(file: string, from: string): string {
  const path = resolve(join(from, '..'), file);
  const text = readIfThere(path);
  if (text === null) throw bad(from, `it names ${path}, which is not there`);
  return text;
}

function readIfThere(path: string): string | null {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return null;
    throw new ClipError('PERMISSION', `cannot read ${path}: ${code}`, {
      cause,
      hint: 'make it readable, or name another directory with --hosts-dir',
    });
  }
  if (bytes.length > MAX_FILE_BYTES) throw new ClipError('LIMIT', `${path} is longer than ${MAX_FILE_BYTES} bytes`);
  return bytes.toString('utf8');
}

function bad(path: string, message: string): ClipError {
  return new ClipError('BAD_FORMAT', `${path}: ${message}`, {
    hint: "see containerd's page on registry hosts, or name another directory with --hosts-dir",
  });
}
