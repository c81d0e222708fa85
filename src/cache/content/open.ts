import { isAbsolute } from 'node:path';
import { ClipError } from '../../bytes/index.js';
import { requireS3Sdk } from '../../s3/index.js';
import { DirectoryContentCache } from './directory.js';
import { MemoryContentCache } from './memory.js';
import { RedisContentCache } from './redis.js';
import { S3ContentCache, type S3Options } from './s3.js';
import { SocketContentCache } from './socket.js';
import type { ContentCache } from './types.js';

/**
 * `--content-cache URL` (CLIP_CONTENT_CACHE):
 * redis://[user:password@]host[:port][/db][?ttl=SECONDS], rediss:// for TLS; several hosts with commas, or redis+cluster://:
 * a cluster; s3://bucket/prefix[?endpoint=URL&region=R]; dir:/path; unix:/socket; memory:BYTES. Opens nothing: an unavailable cache is
 * found out, and survived, when it is used.
 * @throws ClipError USAGE, UNSUPPORTED where the library for S3 is not installed
 */
export function openContentCache(
  text: string,
  environment: { readonly credentials?: S3Options['credentials'] } = {},
): ContentCache {
  const colon = text.indexOf(':');
  const rest = text.slice(colon + 1);
  switch (text.slice(0, Math.max(0, colon))) {
    case 'redis':
    case 'rediss':
    case 'redis+cluster':
    case 'rediss+cluster':
      return redis(text);
    case 's3':
      return s3(text, environment.credentials);
    case 'dir':
      if (!isAbsolute(rest)) throw usage(text, 'an absolute directory');
      return new DirectoryContentCache(rest);
    case 'unix':
      if (!isAbsolute(rest)) throw usage(text, 'the absolute path of a socket');
      return new SocketContentCache(rest);
    case 'memory':
      if (!/^[1-9]\d{0,14}$/.test(rest)) throw usage(text, 'a number of bytes');
      return new MemoryContentCache(Number(rest));
    default:
      throw usage(text, 'redis://, rediss://, redis+cluster://, s3://, dir:, unix: or memory:');
  }
}

/** The hosts of a cluster stand where a URL has one, which URL would not parse; "redis://a,redis://b" says the same. */
const REDIS_URL = /^redis(s?)(\+cluster)?:\/\/(?:([^@/?]*)@)?([^@/?]+)\/?([^/?]*)(?:\?(.*))?$/;
const HOST_PORT = /^(\[[0-9a-f:]+\]|[^:[\],\s]+)(?::([0-9]{1,5}))?$/i;
const REDIS_PORT = 6379;

function redis(text: string): ContentCache {
  const match = REDIS_URL.exec(text.replace(/,rediss?:\/\//g, ','));
  if (match === null) throw usage(text, 'redis://[USER:PASSWORD@]HOST[:PORT][,HOST…][/DATABASE][?ttl=SECONDS]');
  const [, tls, named, login = '', hosts, path = '', query = ''] = match;
  const addresses = hosts!.split(',').map((one) => {
    const [, host, port = REDIS_PORT] = HOST_PORT.exec(one) ?? [];
    if (host === undefined || Number(port) > 65535) throw usage(text, 'HOST[:PORT], several with commas,');
    return { host: host.replace(/[[\]]/g, ''), port: Number(port) };
  });
  const parameters = new URLSearchParams(query);
  for (const name of parameters.keys()) if (name !== 'ttl' && name !== 'cluster') throw usage(text, 'ttl or cluster');
  const ttl = parameters.get('ttl');
  if (ttl !== null && !/^[1-9]\d{0,9}$/.test(ttl)) throw usage(text, 'ttl in whole seconds');
  if (!/^\d{0,5}$/.test(path)) throw usage(text, 'the number of a database after the host');
  const cluster = named !== undefined || parameters.has('cluster') || addresses.length > 1;
  if (cluster && Number(path) > 0) throw usage(text, 'no database (a cluster has but one)');
  const [username, password] = credentialsOf(login, text);
  return new RedisContentCache({
    addresses,
    cluster,
    tls: tls === 's',
    ...(username === '' ? {} : { username }),
    ...(password === '' ? {} : { password }),
    ...(Number(path) === 0 ? {} : { database: Number(path) }),
    ...(ttl === null ? {} : { ttlSeconds: Number(ttl) }),
  });
}

function credentialsOf(login: string, text: string): [username: string, password: string] {
  const colon = login.indexOf(':');
  try {
    const username = decodeURIComponent(colon < 0 ? login : login.slice(0, colon));
    return [username, colon < 0 ? '' : decodeURIComponent(login.slice(colon + 1))];
  } catch {
    throw usage(text, 'percent-encoded USER:PASSWORD');
  }
}

function s3(text: string, credentials: S3Options['credentials']): ContentCache {
  requireS3Sdk();
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    throw usage(text, 'a URL');
  }
  if (url.hostname === '') throw usage(text, 's3://BUCKET[/PREFIX]');
  const path = decodeURIComponent(url.pathname).replace(/^\/+|\/+$/g, '');
  const [endpoint, region] = [url.searchParams.get('endpoint'), url.searchParams.get('region')];
  return new S3ContentCache({
    bucket: url.hostname,
    prefix: path === '' ? '' : `${path}/`,
    ...(endpoint === null ? {} : { endpoint }),
    ...(region === null ? {} : { region }),
    ...(credentials === undefined ? {} : { credentials }),
  });
}

function usage(text: string, expected: string): ClipError {
  // It may hold a password.
  const shown = text.replace(/\/\/.*@/, '//…@');
  return new ClipError('USAGE', `content cache ${shown}: ${expected} expected`, {
    hint: 'for example redis://127.0.0.1:6379, s3://bucket/prefix or dir:/shared/clip',
  });
}
