import { ClipError } from '../bytes/index.js';
import type { CachePruneRequest, MountRequest, PrefetchCancelRequest, PrefetchRequest, UnmountRequest } from './api.js';

/*
 * What a client may send. Checked by hand: zod takes 50 ms to load and 12 MB to keep, which a server that has to be back
 * within 400 ms of a kill, in 130 MB, does not have for four small objects.
 */

type Check<T> = (value: unknown, where: string) => T;

function reject(where: string, expected: string): never {
  throw new ClipError('USAGE', `request: ${where} must be ${expected}`);
}

/** Longest path the kernel takes. */
const PATH_MAX = 4096;

const path: Check<string> = (value, where) =>
  typeof value === 'string' && value.startsWith('/') && value.length <= PATH_MAX && !value.includes('\0')
    ? value
    : reject(where, 'an absolute path');

const text =
  (max: number): Check<string> =>
  (value, where) =>
    typeof value === 'string' && value.length > 0 && value.length <= max
      ? value
      : reject(where, `a string of 1 to ${max} characters`);

const boolean: Check<boolean> = (value, where) => (typeof value === 'boolean' ? value : reject(where, 'true or false'));

const number =
  (min: number, max: number): Check<number> =>
  (value, where) =>
    typeof value === 'number' && value >= min && value <= max ? value : reject(where, `a number from ${min} to ${max}`);

const oneOf =
  <T extends string>(...values: readonly T[]): Check<T> =>
  (value, where) =>
    values.includes(value as T) ? (value as T) : reject(where, `one of ${values.join(', ')}`);

const onlyTrue: Check<true> = (value, where) => (value === true ? value : reject(where, 'true, or absent'));
const listOf =
  <T>(check: Check<T>, max: number): Check<readonly T[]> =>
  (value, where) =>
    Array.isArray(value) && value.length > 0 && value.length <= max
      ? value.map((item, i) => check(item, `${where}[${i}]`))
      : reject(where, `a list of 1 to ${max}`);
const anyObject: Check<Record<string, unknown>> = (value, where) =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : reject(where, 'an object');

type Shape = Readonly<Record<string, Check<unknown>>>;
type Of<S extends Shape> = { [K in keyof S]: ReturnType<S[K]> };

/** An object with these fields, of which those in `optional` may be absent; a field nobody knows is an error, not ignored. */
function object<R extends Shape, O extends Shape>(required: R, optional: O): Check<Of<R> & Partial<Of<O>>> {
  return (value, where) => {
    const fields = anyObject(value, where);
    const result: Record<string, unknown> = {};
    for (const [name, check] of Object.entries(required)) result[name] = check(fields[name], `${where}.${name}`);
    for (const [name, check] of Object.entries(optional)) {
      if (fields[name] !== undefined) result[name] = check(fields[name], `${where}.${name}`);
    }
    for (const name of Object.keys(fields)) {
      if (!Object.hasOwn(required, name) && !Object.hasOwn(optional, name)) reject(`${where}.${name}`, 'absent');
    }
    return result as Of<R> & Partial<Of<O>>;
  };
}

/** A day: who wants to wait longer for a registry wants something else. */
const MAX_READ_TIMEOUT = 86_400;

export const imageOptions = object(
  {},
  {
    readahead: boolean,
    readTimeout: number(0.001, MAX_READ_TIMEOUT),
    plainHttp: boolean,
    prefetch: boolean,
    fill: boolean,
  },
);

export const mountRequest: Check<MountRequest> = object(
  { archivePath: path, mountPoint: path, mountNamespace: text(100), requestId: text(100) },
  {
    options: imageOptions,
    suid: boolean,
    dev: boolean,
    access: anyObject,
    daemon: object(
      {},
      { cacheDir: path, cacheSize: number(0, 2 ** 53), workers: number(1, 64), contentCache: text(PATH_MAX) },
    ),
  },
);

export const unmountRequest: Check<UnmountRequest> = object(
  { mountPoint: path, mode: oneOf('normal', 'lazy', 'force') },
  {},
);

/** As many as a command line holds, and more than anybody writes by hand. */
const MAX_PATHS = 10_000;

const prefetchFields: Check<PrefetchRequest> = object(
  { mountPoint: path },
  { profile: onlyTrue, paths: listOf(text(PATH_MAX), MAX_PATHS), bytesPerSecond: number(1, 2 ** 53) },
);
export const prefetchRequest: Check<PrefetchRequest> = (value, where) => {
  const request = prefetchFields(value, where);
  const given = (['profile', 'paths', 'bytesPerSecond'] as const).filter((name) => request[name] !== undefined);
  return given.length < 2 ? request : reject(`${where}.${given[1]}`, `absent beside ${given[0]}`);
};

export const prefetchCancelRequest: Check<PrefetchCancelRequest> = object({ mountPoint: path }, { id: text(100) });
export const cachePruneRequest: Check<CachePruneRequest> = object({}, { to: number(0, 2 ** 53), mounted: boolean });
export const cacheVerifyRequest = object({}, {});
export const profileStopRequest = object({ mountPoint: path }, {});
export const stopRequest = object({}, { onlyIfIdle: boolean });
export const upgradeRequest = object({ serverModule: path }, {});
