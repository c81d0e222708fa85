import { EventEmitter } from 'node:events';
import { AbortError, ClipError } from '../bytes/index.js';
import type { Stats } from '../wire/index.js';
import { type MountedArchive, mountArchive } from './mount-archive.js';
import type { MountArchiveOptions } from './mount-options.js';

/** Counters of the server that grow while something is wrong (docs/operations.md lists them). */
const TROUBLE = [
  ['cacheWriteErrors', "the cache's disk refuses writes: what is read is fetched again"],
  ['contentErrors', 'the shared content cache fails: the registry is asked instead'],
  ['digestMismatches', 'the registry gives other bytes than were indexed: they reach no reader'],
  ['failedSpans', 'a span could not be fetched: its readers got an error'],
] as const;

/** How often the engine is asked for news, while there is a listener for them. */
const POLL_MS = 500;

export interface MountEvents {
  /** The engine's server ended and another one took over. Readers waited and saw no error. `restarts`: so far. */
  restarted: [{ readonly restarts: number }];
  /** Something that reads need, or that makes them fast, fails now. Once, until a time without failures. */
  degraded: [{ readonly reason: string }];
  /** It is not mounted any more, however that came. Once. */
  unmounted: [];
}

/** A mount that exists. `await using` ends it, lazily if it is in use. */
export interface Mount extends Omit<MountedArchive, 'start'>, AsyncDisposable {
  readonly mountPoint: string;
  on<E extends keyof MountEvents>(event: E, listener: (...args: MountEvents[E]) => void): this;
  once<E extends keyof MountEvents>(event: E, listener: (...args: MountEvents[E]) => void): this;
  off<E extends keyof MountEvents>(event: E, listener: (...args: MountEvents[E]) => void): this;
}

export interface MountCallOptions extends MountArchiveOptions {
  /** Gives up mounting. A mount that exists is ended by `unmount`. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * Mounts an archive for as long as this process lives, and resolves when it answers: `mountArchive` and its `start` in one.
 * @throws ClipError naming the archive, the mount point or what is missing; AbortError
 * @example
 * ```ts
 * await using py = await mount({ archivePath: 'py.clip', mountPoint: '/mnt/py' });
 * py.on('degraded', ({ reason }) => console.warn(reason));
 * console.log(readFileSync('/mnt/py/etc/os-release', 'utf8'));
 * ```
 */
export async function mount(options: MountCallOptions): Promise<Mount> {
  const { signal, ...rest } = Object(options) as MountCallOptions;
  if (signal !== undefined && !(signal instanceof AbortSignal)) {
    throw new ClipError('USAGE', 'mount: options.signal must be an AbortSignal');
  }
  const what = `mounting ${rest.archivePath} at ${rest.mountPoint}`;
  if (signal?.aborted) throw new AbortError(what, signal);
  const mounted = mountArchive(rest);
  const starting = mounted.start();
  if (signal !== undefined) await orAbort(starting, what, signal, () => mounted.unmount({ mode: 'lazy' }));
  else await starting;
  return withEvents(mounted, rest.mountPoint, await mounted.stats());
}

/** A start that was called off may still succeed: then it is undone. */
async function orAbort(
  starting: Promise<void>,
  what: string,
  signal: AbortSignal,
  undo: () => Promise<void>,
): Promise<void> {
  let abort = (): void => {};
  const aborted = new Promise<never>((_, reject) => {
    abort = () => reject(new AbortError(what, signal));
    signal.addEventListener('abort', abort, { once: true });
  });
  try {
    await Promise.race([starting, aborted]);
  } catch (error) {
    starting.then(undo).catch(() => {});
    throw error;
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

/** @param first what later answers are compared with: the engine may be older than this mount */
function withEvents(mounted: MountedArchive, mountPoint: string, first: Stats): Mount {
  const events = new EventEmitter();
  let open = true;
  let timer: NodeJS.Timeout | null = null;
  let { restarts } = first.health;
  let seen = first.counters;
  /** Counters that grew since the look before: their reason has been told. */
  let growing = new Set<string>();

  /** Compares with the last answer. */
  const look = async (): Promise<void> => {
    // A server that is replaced does not answer at once; `unmounted` tells of an engine that has ended.
    const stats = await mounted.stats().catch(() => null);
    if (!open || stats === null) return;
    const { health, counters } = stats;
    const isNew = health.restarts > restarts;
    if (isNew) events.emit('restarted', { restarts: health.restarts });
    const grown = new Set<string>();
    for (const [counter, reason] of TROUBLE) {
      // A server begins to count at 0.
      const before = isNew ? 0 : (seen[counter] ?? 0);
      if ((counters[counter] ?? 0) <= before) continue;
      grown.add(counter);
      if (!growing.has(counter)) events.emit('degraded', { reason });
    }
    [restarts, seen, growing] = [health.restarts, counters, grown];
  };
  const poll = (): void => {
    if (timer !== null || !open || events.listenerCount('restarted') + events.listenerCount('degraded') === 0) return;
    timer = setTimeout(() => {
      // What a listener throws is its own, and ends the process as with any emitter.
      void look().finally(() => {
        timer = null;
        poll();
      });
    }, POLL_MS).unref();
  };
  void mounted.closed.then(() => {
    open = false;
    if (timer !== null) clearTimeout(timer);
    events.emit('unmounted');
  });

  const mount: Mount = {
    mountPoint,
    get closed() {
      return mounted.closed;
    },
    unmount: async (options) => mounted.unmount(options),
    prefetch: async (wish) => mounted.prefetch(wish),
    profile: async () => mounted.profile(),
    stats: async () => mounted.stats(),
    on(event, listener) {
      events.on(event, listener as (...args: unknown[]) => void);
      poll();
      return mount;
    },
    once(event, listener) {
      events.once(event, listener as (...args: unknown[]) => void);
      poll();
      return mount;
    },
    off(event, listener) {
      events.off(event, listener as (...args: unknown[]) => void);
      return mount;
    },
    async [Symbol.asyncDispose]() {
      if (open) await mounted.unmount({ mode: 'lazy' });
    },
  };
  return mount;
}
