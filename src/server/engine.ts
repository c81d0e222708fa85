import type { OpenOptions } from '../archive/index.js';
import type { ConnectionId, SpanIndex } from '../bytes/index.js';
import { ClipError } from '../bytes/index.js';
import {
  type CachedLayer,
  type EvictionRight,
  openContentCache,
  SpanCache,
  type VerifiedFile,
} from '../cache/index.js';
import { ArchiveFile, LayerIndexes, openImage, type StorageAccess, unindexedLayers } from '../check/index.js';
import type { FusePool } from '../fuse/index.js';
import {
  type Fetched,
  type Inflated,
  InflatePool,
  LayerSet,
  ProfileStore,
  Recheck,
  startName,
  verifySpans,
} from '../lazy/index.js';
import { collectGarbage } from '../loader/index.js';
import { type Logger, Metrics, NO_TELEMETRY, type Telemetry } from '../metrics/index.js';
import { OwnDirectory } from '../paths/index.js';
import type { KernelTree } from '../plane/index.js';
import type { ClientContext, ConnectionState, DaemonSettings, ImageOptions, PlaneWish } from '../wire/index.js';
import { DEFAULT_IMAGE_OPTIONS, type JournaledRead, kernelResends, ReadJournal } from '../wire/index.js';
import { lazyLogger } from './deferred-logger.js';
import { FetchingCode } from './fetching-code.js';
import { FreedSpans } from './freed-spans.js';
import { ImageData, type ProfileSearch } from './image-data.js';
import { ImageMount } from './image-mount.js';
import { keepJourney } from './kept-journeys.js';
import { mountInKernel } from './kernel-mount.js';
import { PlaneChoice } from './plane-choice.js';
import { prefixed } from './prefixed.js';
import { newReadCounters, type ReadCounters } from './reads.js';
import { Rest } from './rest.js';

export { lazyLogger, Metrics };

export interface EngineOptions {
  readonly settings: DaemonSettings;
  readonly log: Logger;
  readonly metrics: Metrics;
}

/** An earlier clipd may be about to release the cache directory: opening it is tried again for this long. */
const CACHE_WAIT_MS = 3000;

/**
 * Loading a content cache's client and connecting takes longer than a read may wait for the cache. A mount waits for it once, so
 * that its first reads find the cache connected.
 */
const CONTENT_WAIT_MS = 500;

/** A server that ends gives the profiles of its last mounts this long to be published; the next server publishes the others. */
const PUBLISH_WAIT_MS = 500;
/** It does so when first mounts and readers of an earlier server have been served. */
const PUBLISH_LATER_MS = 3000;

/** How often layers of the kernel plane are looked at: those that have become complete may be read by the kernel itself. */
const SEAL_MS = 1000;

/** By priority. */
const REASONS = ['demand', 'readahead', 'prefetch', 'speculation', 'fill'] as const;

/** Garbage of mounting and unmounting is collected this much later. */
const COLLECT_MS = 1000;

interface IndexArguments {
  readonly archivePath: string;
  readonly access: StorageAccess;
  readonly options: Partial<ImageOptions>;
}

/** The data path of one server process: FUSE workers, inflate workers, the span cache and the images they serve. */
export class Engine {
  readonly mounts = new Map<number, ImageMount>();
  /** For OpenTelemetry, once its SDK is loaded. */
  telemetry: Telemetry = NO_TELEMETRY;
  readonly fuse: FusePool;
  readonly cache: SpanCache;
  /** What this process needs to find under its path as long as it runs. */
  readonly directories: readonly string[];
  readonly planes: PlaneChoice;
  /** Of mounts that do not say. */
  readonly plane: PlaneWish;
  /** Whether the kernel can send requests again; null until a take-over has asked. */
  resend: boolean | null = null;
  readonly #inflate: InflatePool;
  /** How far a check of the whole cache is, in bytes of spans. */
  verifying: { readonly done: number; readonly total: number } | null = null;
  readonly #layers: LayerSet;
  readonly #log: Logger;
  readonly #profiles: ProfileStore;
  readonly #root: OwnDirectory;
  readonly #cacheDir: string;
  /** Layers that are being indexed, so that mounts of the same image wait for one pass. */
  readonly #indexing = new Map<string, Promise<void>>();
  /** By connection; null where the kernel sends requests again. */
  readonly #journals: Map<number, ReadJournal> | null;
  readonly #recheck: Recheck;
  readonly #rest: Rest;
  readonly #fetchingCode: FetchingCode;
  readonly #sealTimer: NodeJS.Timeout;
  #sealing = false;
  #collecting: NodeJS.Timeout | null = null;
  /** When memory was last let go of (performance.now). */
  #garbageAt = 0;
  /** What unmounted images counted. */
  readonly #finished: ReadCounters = newReadCounters();
  /** Likewise, of their sources. */
  readonly #finishedSources = { retries: 0, redirects: 0, tokens: 0 };
  readonly #metrics: Metrics;

  private constructor(options: EngineOptions, fuse: FusePool, inflate: InflatePool, cache: SpanCache) {
    this.fuse = fuse;
    this.cache = cache;
    this.#inflate = inflate;
    this.#log = options.log;
    const { cacheDir, contentCache, profileSharing, resend, root } = options.settings;
    this.#root = OwnDirectory.open(root);
    this.#cacheDir = cacheDir;
    this.directories = [root, cacheDir];
    this.planes = new PlaneChoice(cacheDir, root);
    this.plane = options.settings.plane ?? DEFAULT_IMAGE_OPTIONS.plane;
    this.#journals = (resend ?? kernelResends()) ? null : new Map();
    this.#metrics = options.metrics;
    this.#registerMetrics(options.metrics);
    this.#recheck = new Recheck(cache, inflate, (layer, span) => this.#onDamaged(layer, span));
    this.#rest = new Rest(
      () => fuse.stats().requests,
      () => inflate.collect(),
    );
    this.#fetchingCode = new FetchingCode(() => inflate.keepCode());
    this.#sealTimer = setInterval(() => void this.#seal(), SEAL_MS).unref();
    this.#layers = new LayerSet({
      cache,
      pool: inflate,
      log: options.log,
      metrics: options.metrics,
      onFetched: (fetched) => this.#onFetched(fetched),
      onInflated: (inflated) => this.#onInflated(inflated),
      contentCache: contentCache === undefined ? undefined : openContentCache(contentCache),
    });
    const sharing = profileSharing === false ? null : { content: this.#layers.content };
    this.#profiles = new ProfileStore(cacheDir, sharing, options.log, options.metrics);
    setTimeout(() => this.#profiles.resume(), PUBLISH_LATER_MS).unref();
  }

  static async start(options: EngineOptions, fuse: FusePool): Promise<Engine> {
    const { settings, log, metrics } = options;
    const inflate = new InflatePool({ log, metrics });
    const cache = await openCache(settings, log, metrics);
    return new Engine(options, fuse, inflate, cache);
  }

  /** Starts what misses would have to wait for. */
  warm(): void {
    this.#inflate.warm();
  }

  /** Loads what threads may need later. A package manager may take the files away at any moment. */
  complete(): Promise<void> {
    return this.#inflate.complete();
  }

  /** An image that is about to be mounted. Takes `file` over. @throws FormatError */
  open(file: ArchiveFile, options: ImageOptions, client: ClientContext): ImageData {
    try {
      const [missing] = file.archive.unindexed;
      if (missing !== undefined) {
        throw new ClipError('NOT_FOUND', `${file.path}: the index of layer ${missing} is gone from the cache`, {
          hint: 'mount the archive again: its layers are then indexed anew',
        });
      }
      const log = this.#log.child({ image: file.archive.image.reference });
      return new ImageData(file, options, client, this.#layers, log);
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /** Takes the descriptor over. @throws FormatError, ClipError as ArchiveFile does */
  openArchive(fd: number, path: string, options: OpenOptions = {}): ArchiveFile {
    this.#collectSoon(); // also for an archive that is refused: its tree has been read by then
    const read = { ...options, referencesOnUse: true };
    return new ArchiveFile(fd, path, this.#layerIndexes(), () => this.#collectSoon(), read);
  }

  /** What is known of the layers of version 1 archives. Each opened archive takes one, and closes it. */
  #layerIndexes(): LayerIndexes {
    return new LayerIndexes(this.#cacheDir);
  }

  /** Whether `indexLayers` would read layers from their registry. */
  lacksLayers(archivePath: string): boolean {
    try {
      return unindexedLayers(archivePath, this.#layerIndexes()) !== null;
    } catch {
      return false; // opening it says why
    }
  }

  /** A version 1 archive of an image holds no checkpoints to inflate from: its layers are indexed when it is first mounted. */
  async indexLayers({ archivePath, access, options }: IndexArguments): Promise<void> {
    const missing = unindexedLayers(archivePath, this.#layerIndexes());
    if (missing === null) return;
    const { image, digests } = missing;
    const key = digests.join();
    const running = this.#indexing.get(key);
    if (running !== undefined) return running;
    const work = async (): Promise<void> => {
      this.#log.info({ archive: archivePath, layers: digests }, 'indexing layers of a version 1 archive');
      const plainHttp = options.plainHttp === true || access.plainHttp === true;
      const source = await openImage(image, { ...access, plainHttp }, options.storage);
      try {
        await this.#layerIndexes().make(image, digests, source);
      } finally {
        await source.close();
      }
    };
    const indexing = work().finally(() => this.#indexing.delete(key));
    this.#indexing.set(key, indexing);
    return indexing;
  }

  /** Where profiles of an image's starts are. `command`: of a container that does not run the image's own. */
  profilesOf({ file }: ImageData, command?: string): ProfileSearch {
    return { store: this.#profiles, name: startName(file.archive.image, command) };
  }

  /** As soon as what is fetched may come from the content cache. `profiles` null: of a start that is over. `words`: of the command, as in MountRequest. */
  fetchAhead(image: ImageData, profiles: ProfileSearch | null, words?: readonly string[]): void {
    void this.#layers.contentReady(CONTENT_WAIT_MS).then(() => image.fetchAhead(profiles, words));
  }

  /** Serves a connection from now on. Takes `image` over. `profiles` null: it was served before. */
  async attach(
    state: ConnectionState,
    fuseFd: number,
    image: ImageData,
    resumed: boolean,
    profiles: ProfileSearch | null,
  ): Promise<void> {
    let mount: ImageMount;
    let left: readonly JournaledRead[] = [];
    try {
      if (this.#journals !== null) {
        const opened = ReadJournal.open(this.#root, state.id);
        this.#journals.set(state.id, opened.journal);
        left = resumed ? opened.left : [];
      }
      const journal = this.#journals?.get(state.id) ?? null;
      mount = new ImageMount(state, image, fuseFd, this.#log, profiles, journal, this.#metrics);
    } catch (error) {
      await image.close();
      throw error;
    }
    this.mounts.set(state.id, mount);
    this.#collectSoon();
    if (!resumed) await this.#layers.contentReady(CONTENT_WAIT_MS);
    const { resent } = await this.fuse.attach(mount.spec(resumed));
    if (!resumed) return;
    this.resend = resent;
    if (!resent) {
      this.#log.warn(
        { mount: state.id, taken: left.length },
        'this kernel cannot send requests again (Linux 6.9 and later can): what FUSE threads had in their hands stays unanswered until interrupted; reads that were being fetched are taken over',
      );
      for (const read of left) mount.reads.start(read.unique, read.nid, read.offset, read.size);
    }
  }

  /**
   * Lets the kernel mount the image of a connection that is attached. @returns the mount's root; it is nowhere in the tree yet
   * @throws KernelMountError
   */
  mountInKernel(
    state: ConnectionState,
    tree: KernelTree,
  ): { readonly mount: number; readonly files: readonly number[] } {
    const layers = this.mounts.get(state.id)!.kernelFiles();
    const mount = mountInKernel(this.#root, state, tree, layers);
    return { mount, files: [...layers.keys()].filter((index) => layers[index] !== null) };
  }

  /** Complete layers of images that the kernel serves, for their next mounts. */
  async #seal(): Promise<void> {
    if (this.#sealing) return;
    this.#sealing = true;
    try {
      for (const mount of this.mounts.values()) {
        for (const layer of mount.unsealed()) await this.cache.seal(layer);
      }
    } finally {
      this.#sealing = false;
    }
  }

  async detach(id: ConnectionId): Promise<void> {
    const mount = this.mounts.get(id);
    if (mount === undefined) return;
    this.mounts.delete(id);
    mount.recording?.stop(); // at once: this server may be told to end before the rest is done
    await this.fuse.detach(id);
    addTo(this.#finishedSources, mount.source.counters);
    for (const key of Object.keys(this.#finished) as (keyof ReadCounters)[]) {
      this.#finished[key] += mount.reads.counters[key];
    }
    if (mount.journey.moved) keepJourney(this.#cacheDir, mount.describeJourney(new Date()), this.#log);
    await mount.close();
    this.#journals?.get(id)?.remove();
    this.#journals?.delete(id);
    this.#fetchingCode.unmounted();
  }

  /**
   * V8 does not count shared memory when it decides to collect, so the trees of archives that were unmounted, refused or found to be
   * mounted already would stay (docs/benchmarks.md, "Why these constants"). It is told to collect, at most once a second; FUSE
   * workers do the same when they detach.
   */
  #collectSoon(): void {
    this.#garbageAt = performance.now();
    this.#collecting ??= setTimeout(() => {
      this.#collecting = null;
      const age = performance.now() - this.#garbageAt;
      collectGarbage();
      // The request that closed an archive just now may not have ended yet, and its stack holds the tree.
      if (age < COLLECT_MS / 2) this.#collectSoon();
    }, COLLECT_MS).unref();
  }

  /** Checks all that is cached, and frees what is damaged. */
  async verifyCache(signal: AbortSignal): Promise<VerifiedFile[]> {
    const files: VerifiedFile[] = [];
    const total = this.cache.usedBytes;
    let done = 0;
    const onChecked = (bytes: number): void => {
      done += bytes;
      this.verifying = { done: Math.min(done, total), total };
    };
    const damaged = new FreedSpans();
    const onDamaged = ({ shared }: CachedLayer, span: SpanIndex): void => damaged.add(shared, span);
    const watch = { onFile: (file: VerifiedFile) => void files.push(file), onDamaged, onChecked };
    try {
      await verifySpans(this.cache, this.#inflate, watch, signal);
    } finally {
      this.verifying = null;
    }
    await this.#dropPages(damaged);
    return files;
  }

  /** Evicts down to `maxBytes`. Returns the bytes freed. */
  async pruneCache(maxBytes: number, right: EvictionRight): Promise<number> {
    const freed = new FreedSpans();
    this.cache.onEvict = ({ shared }, first, end) => {
      for (let span = first; span < end; span++) freed.add(shared, span);
    };
    let bytes: number;
    try {
      bytes = this.cache.prune(maxBytes, right);
    } finally {
      this.cache.onEvict = null;
    }
    await this.#dropPages(freed);
    return bytes;
  }

  /** Readers get what the cache has freed from the cache again, and not from pages that the kernel has of it. */
  async #dropPages(freed: FreedSpans): Promise<void> {
    if (freed.empty) return;
    const drop = async (mount: ImageMount): Promise<void> => {
      if (!(await mount.dropPages(freed))) {
        this.#log.warn(
          { mount: mount.id },
          'the kernel has not dropped all pages of freed spans yet: some are being read',
        );
      }
    };
    await Promise.all([...this.mounts.values()].map(drop));
  }

  #onDamaged({ key, shared }: CachedLayer, span: SpanIndex): void {
    this.#log.error({ layer: key, span }, 'a cached span has changed on the disk: it was freed, and is fetched again');
    const damaged = new FreedSpans();
    damaged.add(shared, span);
    void this.#dropPages(damaged);
  }

  #registerMetrics(metrics: Metrics): void {
    metrics.addSource(() => prefixed('miss', this.readCounters()));
    metrics.addSource(() => prefixed('fuse', this.fuse.stats()));
    metrics.addSource(() => prefixed('fuseOperation.', this.fuse.operations()));
    metrics.addSource(() => {
      const sum = { ...this.#finishedSources };
      for (const { source } of this.mounts.values()) addTo(sum, source.counters);
      return prefixed('source', sum);
    });
    metrics.gauge('images', () => this.mounts.size);
    metrics.gauge('readsInFlight', () => {
      let sum = 0;
      for (const { reads } of this.mounts.values()) sum += reads.inFlight;
      return sum;
    });
  }

  /** Images that share the layer share what was fetched. */
  #onFetched(fetched: Fetched): void {
    let reference = '';
    for (const mount of this.mounts.values()) {
      if (mount.noteFetched(fetched)) reference = mount.file.archive.image.reference;
    }
    if (this.telemetry === NO_TELEMETRY) return;
    const { first, end, bytes, reason, source, started, ended } = fetched;
    // While it is being mounted, what its profile fetches is not known to be its own yet.
    const of = reference === '' ? {} : { reference };
    const attributes = { ...of, first, spans: end - first, bytes, reason: REASONS[reason], source };
    this.telemetry.work({ name: 'fetch', started, ended, attributes });
  }

  #onInflated({ span, bytes, started, ended, error }: Inflated): void {
    this.#fetchingCode.used();
    if (this.telemetry === NO_TELEMETRY) return;
    this.telemetry.work({ name: 'inflate', started, ended, attributes: { span, bytes }, error: error ?? undefined });
  }

  readCounters(): ReadCounters {
    const sum = { ...this.#finished };
    for (const mount of this.mounts.values()) {
      for (const key of Object.keys(sum) as (keyof ReadCounters)[]) sum[key] += mount.reads.counters[key];
    }
    return sum;
  }

  /** Stops taking requests, gives those under way `milliseconds`, and lets go of the cache. What is left the kernel asks again. */
  async drain(milliseconds: number): Promise<void> {
    this.#recheck.stop();
    this.#rest.stop();
    clearInterval(this.#sealTimer);
    await this.fuse.close();
    await Promise.all([...this.mounts.values()].map((mount) => mount.reads.idle(milliseconds)));
    for (const mount of this.mounts.values()) await mount.close();
    this.mounts.clear();
    await this.#profiles.idle(PUBLISH_WAIT_MS);
    await this.#inflate.close();
    await this.#layers.close();
    await this.cache.close();
    await this.telemetry.close();
  }
}

function addTo<T extends Record<string, number>>(sum: T, more: Readonly<Record<string, number>>): void {
  for (const key of Object.keys(sum) as (keyof T & string)[]) (sum[key] as number) += more[key] ?? 0;
}

async function openCache(settings: DaemonSettings, log: Logger, metrics: Metrics): Promise<SpanCache> {
  const end = performance.now() + CACHE_WAIT_MS;
  for (;;) {
    try {
      return await SpanCache.open(settings.cacheDir, {
        maxBytes: settings.cacheSize,
        root: settings.root,
        log,
        metrics,
      });
    } catch (error) {
      if ((error as { code?: string }).code !== 'BUSY' || performance.now() > end) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}
