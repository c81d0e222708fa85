import type { ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AbortError, ClipError } from '../bytes/index.js';
import type { ContentCache } from '../cache/index.js';
import { LOG_NAME } from '../metrics/index.js';
import type { PrefetchReply, PrefetchRequest, ProfileReply, RecentWarning, Stats } from '../wire/index.js';
import { PRIVATE_ROOT_PREFIX, resolveDirectory } from '../wire/index.js';
import { ClipdClient, NotRunningError } from './clipd-client.js';
import { EngineLog } from './engine-log.js';
import { fetchArchive } from './fetch-archive.js';
import { firstLookup, prepareMount } from './mount-client.js';
import type { MountArchiveOptions } from './mount-options.js';
import { type ReadTrace, traceReads } from './read-trace.js';
import { startKeeper } from './start-clipd.js';

export interface MountedArchive {
  /** Mounts; resolves when the mount answers. After it has failed, or after `unmount`, it mounts again. @throws ClipError naming the archive, the mount point or what is missing */
  start(): Promise<void>;
  /**
   * Resolves when it is not mounted any more, by whichever program, with the last warnings of its engine. Pending until `start` has
   * succeeded; after that, of the latest start.
   */
  readonly closed: Promise<ClosedMount>;
  /** @throws ClipError BUSY, naming the processes that hold it */
  unmount(options?: { mode?: 'normal' | 'lazy' | 'force' | undefined }): Promise<void>;
  /** What was read first since the mount, in that order; ends its recording, which otherwise takes 60 s. */
  profile(): Promise<ProfileReply>;
  /**
   * Fetches spans that no reader has asked for yet: of the whole image, or of the given files. Resolves when it has ended; its `state` is `done`, or
   * `incomplete` with a reason. @throws ClipError NOT_FOUND when nothing is called so; AbortError by the signal
   */
  prefetch(wish?: PrefetchOptions): Promise<PrefetchReply>;
  /** What was fetched and served, and the last warnings, of all mounts that share this one's engine. */
  stats(): Promise<EngineStats>;
}

export interface ClosedMount {
  /** The engine ended before the mount did: it was killed, or could not go on. */
  readonly engineEnded: boolean;
  /** Why reads failed (EIO), and what the engine did without; the newest last. */
  readonly warnings: readonly RecentWarning[];
}

export interface EngineStats extends Stats {
  readonly warnings: readonly RecentWarning[];
}

/** One of `profile` and `paths`, or neither: the whole image. */
export interface PrefetchOptions extends Omit<PrefetchRequest, 'mountPoint'> {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((state: PrefetchReply) => void) | undefined;
}

/** The keeper and server that this process's mounts with one cache directory share. */
interface PrivateEngine {
  readonly key: string;
  readonly client: ClipdClient;
  readonly child: ChildProcess;
  readonly exited: Promise<void>;
  readonly log: EngineLog;
  users: number;
}

const engines = new Map<string, Promise<PrivateEngine>>();

/** Objects that have been given as content caches: mounts with the same one may share an engine. */
const objectIds = new WeakMap<ContentCache, number>();
let nextObjectId = 1;

function idOf(cache: ContentCache): number {
  const id = objectIds.get(cache) ?? nextObjectId++;
  objectIds.set(cache, id);
  return id;
}

async function startEngine(key: string, options: MountArchiveOptions): Promise<PrivateEngine> {
  await null; // so that the caller has noted us
  const self = engines.get(key);
  const root = mkdtempSync(join(process.env.XDG_RUNTIME_DIR || tmpdir(), PRIVATE_ROOT_PREFIX));
  let endService = (): void => {};
  try {
    const content = options.contentCache;
    const contentCache = typeof content === 'object' ? `unix:${join(root, 'content.sock')}` : content;
    if (typeof content === 'object') {
      const { serveContentCache } = await import('../cache/index.js');
      endService = await serveContentCache(content, join(root, 'content.sock'));
    }
    const { child, serving } = await startKeeper({
      root,
      cacheDir: options.cachePath === undefined ? join(root, 'cache') : resolveDirectory(options.cachePath),
      ...(options.cacheSize === undefined ? {} : { cacheSize: options.cacheSize }),
      ...(contentCache === undefined ? {} : { contentCache }),
      ...(options.profileSharing === false ? { profileSharing: false } : {}),
      private: true,
    });
    const log = new EngineLog(join(root, LOG_NAME));
    const exited = new Promise<void>((resolve) => {
      child.once('exit', () => {
        log.close();
        if (engines.get(key) === self) engines.delete(key);
        endService();
        resolve();
      });
    });
    // The reason why it cannot serve says more than the broken connection of its first client.
    child.ref(); // nothing else keeps the caller's event loop waiting with us
    await serving.finally(() => child.unref());
    return { key, client: new ClipdClient(root), child, exited, log, users: 0 };
  } catch (error) {
    endService();
    rmSync(root, { recursive: true, force: true });
    throw error;
  }
}

async function acquire(options: MountArchiveOptions): Promise<PrivateEngine> {
  const { cachePath, cacheSize, contentCache, profileSharing = true } = options;
  const content = typeof contentCache === 'object' ? idOf(contentCache) : contentCache;
  const key = JSON.stringify([cachePath ?? null, cacheSize ?? null, content ?? null, profileSharing]);
  let starting = engines.get(key);
  if (starting === undefined) {
    starting = startEngine(key, options);
    engines.set(key, starting);
    starting.catch(() => engines.delete(key));
  }
  const engine = await starting;
  engine.users++;
  return engine;
}

async function release(engine: PrivateEngine): Promise<void> {
  if (--engine.users > 0) return;
  engines.delete(engine.key);
  // The end of its standard input ends it.
  engine.child.ref();
  engine.child.stdin?.end();
  await engine.exited;
}

/** The archive as a file, and the login for its data. Keys for S3 are also those that an archive in S3 is fetched with. */
async function archiveAndLogin(
  options: MountArchiveOptions,
): Promise<{ archivePath: string; credentials?: Exclude<MountArchiveOptions['credentials'], undefined> }> {
  const { archivePath, cachePath, credentials } = options;
  const login = credentials === undefined ? {} : { credentials };
  if (!archivePath.startsWith('s3://')) return { archivePath, ...login };
  const { readArchiveOrigin } = await import('./archive-origin.js');
  const keys = typeof credentials === 'object' && credentials !== null && 'accessKeyId' in credentials;
  const path = await fetchArchive(archivePath, { cachePath, ...(keys ? { credentials } : {}) });
  return { archivePath: path, ...(keys && readArchiveOrigin(path).storage.kind !== 's3' ? {} : login) };
}

/**
 * Mounts an archive for as long as this process lives. The engine is a child process (docs/architecture.md, "Processes and
 * threads"): reading the mount synchronously, or from all of libuv's threads, does not deadlock. The mount ends with this
 * process, however that ends.
 *
 * @example
 * ```ts
 * const mount = mountArchive({ archivePath: 'py.clip', mountPoint: '/mnt/py' });
 * await mount.start();
 * console.log(readFileSync('/mnt/py/etc/os-release', 'utf8'));
 * await mount.unmount();
 * ```
 */
export function mountArchive(options: MountArchiveOptions): MountedArchive {
  let engine: PrivateEngine | null = null;
  let mountPoint = '';
  let started: Promise<void> | null = null;
  let close: (value: ClosedMount) => void = () => {};
  let isClosed = false;
  const nextClosed = (): Promise<ClosedMount> => {
    isClosed = false;
    return new Promise((resolve) => {
      close = resolve;
    });
  };
  let closed = nextClosed();

  const watch = async (own: PrivateEngine, trace: ReadTrace | null): Promise<void> => {
    const { onWarning } = options;
    const deafen = onWarning === undefined ? () => {} : own.log.listen(onWarning);
    const unmounted = own.client.waitUnmounted(mountPoint).then(
      () => false,
      () => true,
    );
    const engineEnded = await Promise.race([unmounted, own.exited.then(() => true)]);
    const warnings = own.log.recent;
    deafen();
    trace?.stop();
    engine = null;
    await release(own);
    started = null;
    isClosed = true;
    close({ engineEnded, warnings });
  };

  const start = async (): Promise<void> => {
    // The registry client comes with it, which a `clipctl` that only loads this file does without.
    (await import('./mount-options.js')).checkMountOptions(options);
    const { readahead, readTimeout, plainHttp, prefetch, fill, paranoid, plane, storageInfo } = options;
    // What only this process can find out is found out while the engine starts.
    const preparing = prepareMount(
      {
        ...(await archiveAndLogin(options)),
        mountPoint: options.mountPoint,
        suid: options.suid ?? false,
        dev: options.dev ?? false,
        options: {
          ...(readahead === undefined ? {} : { readahead }),
          ...(readTimeout === undefined ? {} : { readTimeout }),
          ...(plainHttp === undefined ? {} : { plainHttp }),
          ...(prefetch === undefined ? {} : { prefetch }),
          ...(fill === undefined ? {} : { fill }),
          ...(paranoid === undefined ? {} : { paranoid }),
          ...(plane === undefined ? {} : { plane }),
          ...(storageInfo === undefined ? {} : { storage: storageInfo }),
        },
      },
      {},
    );
    preparing.catch(() => {}); // awaited below, after the engine, which must be released
    const own = await acquire(options);
    let trace: ReadTrace | null = null;
    try {
      const request = await preparing;
      const mounted = await own.client.mount(request);
      mountPoint = mounted.mountPoint;
      if (options.onRead !== undefined) trace = await traceReads(own.client, mounted, options.onRead);
      await firstLookup(mountPoint);
    } catch (error) {
      await release(own);
      throw error;
    }
    engine = own;
    if (isClosed) closed = nextClosed();
    void watch(own, trace);
  };

  const running = (): PrivateEngine => {
    if (engine === null) throw new ClipError('USAGE', `${options.mountPoint} is not mounted: call start() first`);
    return engine;
  };

  return {
    get closed() {
      return closed;
    },
    start() {
      started ??= start().catch((error: unknown) => {
        started = null;
        throw error;
      });
      return started;
    },
    async unmount({ mode = 'normal' } = {}) {
      const ended = closed;
      try {
        await running().client.unmount({ mountPoint, mode });
      } catch (error) {
        if (!(error instanceof NotRunningError)) throw error;
      }
      await ended;
    },
    async prefetch({ signal, onProgress, ...wish } = {}) {
      const { client } = running();
      if (signal?.aborted) throw new AbortError(`the prefetch of ${mountPoint}`, signal);
      const request = { ...wish, mountPoint };
      return client.waitPrefetched(request, await client.prefetch(request), { signal, onProgress });
    },
    profile: () => running().client.stopProfile(mountPoint),
    stats: async () => {
      const { client, log } = running();
      return { ...(await client.stats()), warnings: log.recent };
    },
  };
}
