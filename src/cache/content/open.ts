import { isAbsolute } from 'node:path';
import { ClipError } from '../../bytes/index.js';
import { DirectoryContentCache } from './directory.js';
import { MemoryContentCache } from './memory.js';
import { RedisContentCache } from './redis.js';
import { S3ContentCache, type S3Options } from './s3.js';
import type { ContentCache } from './types.js';

/**
 * `--content-cache URL` (CLIP_CONTENT_CACHE): redis://host:port[/db][?ttl=SECONDS][&cluster] (several with commas: a
 * cluster), s3://bucket/prefix[?endpoint=URL&region=R], dir:/path, memory:BYTES. Opens nothing: an unavailable cache is
 * found out, and survived, when it is used.
 * @throws ClipError USAGE
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
      return redis(text);
    case 's3':
      return s3(text, environment.credentials);
    case 'dir':
      if (!isAbsolute(rest)) throw usage(text, 'an absolute directory');
      return new DirectoryContentCache(rest);
    case 'memory':
      if (!/^[1-9]\d{0,14}$/.test(rest)) throw usage(text, 'a number of bytes');
      return new MemoryContentCache(Number(rest));
    default:
      throw usage(text, 'redis://, rediss://, s3://, dir: or memory:');
  }
}

function redis(text: string): ContentCache {
  const parsed = text.split(',').map((one) => parse(one, text));
  const parameters = parsed[0]!.searchParams;
  const ttl = parameters.get('ttl');
  if (ttl !== null && !/^[1-9]\d*$/.test(ttl)) throw usage(text, 'ttl in whole seconds');
  const urls = parsed.map((url) => {
    url.search = '';
    return url.href;
  });
  const cluster = parameters.has('cluster') || urls.length > 1;
  return new RedisContentCache({ urls, cluster, ...(ttl === null ? {} : { ttlSeconds: Number(ttl) }) });
}

function s3(text: string, credentials: S3Options['credentials']): ContentCache {
  const url = parse(text, text);
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

function parse(one: string, text: string): URL {
  try {
    return new URL(one);
  } catch {
    throw usage(text, 'a URL');
  }
}

function usage(text: string, expected: string): ClipError {
  // It may hold a password.
  const shown = text.replace(/\/\/[^@/]*@/g, '//…@');
  return new ClipError('USAGE', `content cache ${shown}: ${expected} expected`, {
    hint: 'for example redis://127.0.0.1:6379, s3://bucket/prefix or dir:/shared/clip',
  });
}
