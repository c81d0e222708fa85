import {
  anyObject,
  boolean,
  type Check,
  checked,
  listOf,
  number,
  object,
  oneOf,
  reject,
  text,
} from '../bytes/index.js';
import type {
  CachePruneRequest,
  FirstExecRequest,
  MountRequest,
  PrefetchCancelRequest,
  PrefetchRequest,
  UnmountRequest,
} from './api.js';
import { LOG_LEVELS, MAX_WORD, MAX_WORDS } from './api.js';
import { isPlaceName } from './place-name.js';

/*
 * The requests that a client may send, checked by functions of bytes/ (docs/internals/decisions/0005-hand-written-request-checks.md).
 */

/** Longest path the kernel takes. */
const PATH_MAX = 4096;

const path: Check<string> = checked(
  'an absolute path',
  (value) => typeof value === 'string' && value.startsWith('/') && value.length <= PATH_MAX && !value.includes('\0'),
);
const place: Check<string> = checked(
  'an absolute path',
  (value) => typeof value === 'string' && isPlaceName(value) && value.length <= PATH_MAX && !value.includes('\0'),
);
const sha256Hex: Check<string> = checked(
  'a SHA-256 in hex',
  (value) => typeof value === 'string' && /^[0-9a-f]{64}$/.test(value),
);
const onlyTrue: Check<true> = checked('true, or absent', (value) => value === true);

/** A day: a longer wait for a registry is a mistake in the number. */
const MAX_READ_TIMEOUT = 86_400;

/** Longest key of an S3 object, which is the longest of these. */
const STORAGE_TEXT_MAX = 1024;

export const storageOverride = object(
  {},
  {
    bucket: text(STORAGE_TEXT_MAX),
    key: text(STORAGE_TEXT_MAX),
    region: text(STORAGE_TEXT_MAX),
    endpoint: text(STORAGE_TEXT_MAX),
    forcePathStyle: boolean,
    imageRef: text(STORAGE_TEXT_MAX),
  },
);

export const imageOptionChecks = {
  readahead: boolean,
  readTimeout: number(0.001, MAX_READ_TIMEOUT),
  plainHttp: boolean,
  prefetch: boolean,
  fill: boolean,
  paranoid: boolean,
  plane: oneOf('kernel', 'fuse', 'auto'),
  storage: storageOverride,
};
export const cacheSize = number(0, 2 ** 53);

const word: Check<string> = checked(
  `a string of at most ${MAX_WORD} characters`,
  (value) => typeof value === 'string' && value.length <= MAX_WORD,
);

export const mountRequest: Check<MountRequest> = object(
  { archivePath: path, mountPoint: place, mountNamespace: text(100), requestId: text(100) },
  {
    options: object({}, imageOptionChecks),
    suid: boolean,
    dev: boolean,
    access: anyObject,
    command: sha256Hex,
    words: listOf(word, MAX_WORDS),
    daemon: object(
      {},
      { cacheDir: path, cacheSize, workers: number(1, 64), contentCache: text(PATH_MAX), profileSharing: boolean },
    ),
  },
);

export const unmountRequest: Check<UnmountRequest> = object(
  { mountPoint: place, mode: oneOf('normal', 'lazy', 'force') },
  { mountNamespace: text(100) },
);

/** As many as a command line holds, and more than a person writes by hand. */
const MAX_PATHS = 10_000;

const prefetchFields: Check<PrefetchRequest> = object(
  { mountPoint: place },
  { profile: onlyTrue, paths: listOf(text(PATH_MAX), MAX_PATHS), bytesPerSecond: number(1, 2 ** 53) },
);
export const prefetchRequest: Check<PrefetchRequest> = (value, where) => {
  const request = prefetchFields(value, where);
  const given = (['profile', 'paths', 'bytesPerSecond'] as const).filter((name) => request[name] !== undefined);
  return given.length < 2 ? request : reject(request[given[1]!], `${where}.${given[1]}`, `absent beside ${given[0]}`);
};

export const prefetchCancelRequest: Check<PrefetchCancelRequest> = object({ mountPoint: place }, { id: text(100) });
export const cachePruneRequest: Check<CachePruneRequest> = object({}, { to: number(0, 2 ** 53), mounted: boolean });
export const cacheVerifyRequest = object({}, {});
/** A day, as for reads. */
export const firstExecRequest: Check<FirstExecRequest> = object(
  { mountPoint: place, milliseconds: number(0, 1000 * MAX_READ_TIMEOUT) },
  { event: oneOf('exec', 'output'), at: number(0, 2 ** 53) },
);
export const logLevelRequest = object({ level: oneOf(...LOG_LEVELS) }, {});
export const profileStopRequest = object({ mountPoint: place }, {});
export const stopRequest = object({}, { onlyIfIdle: boolean });
export const upgradeRequest = object({ serverModule: path }, {});
