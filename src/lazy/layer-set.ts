import type { LayerMeta, References, SpanTable } from '../archive/index.js';
import { type ContentCache, ContentTier, type SpanCache } from '../cache/index.js';
import { type Logger, Metrics, silentLogger } from '../metrics/index.js';
import { Activity } from './activity.js';
import { prefetchProfile } from './ahead/by-profile.js';
import { type FillPace, fill } from './ahead/fill.js';
import type { FollowedImage } from './ahead/followed-image.js';
import { AheadOfReaders } from './ahead/of-readers.js';
import { type AheadContext, type AheadProgress, newProgress } from './ahead/span-runner.js';
import { BufferPool } from './buffers.js';
import type { LayerContext } from './context.js';
import { lazyCounters } from './counters.js';
import { FetchQueue } from './fetch-queue.js';
import type { InflatePool } from './inflate-pool.js';
import { LayerClaim } from './layer-claim.js';
import { LazyLayer } from './lazy-layer.js';
import { Links } from './link.js';
import { MemoryLru } from './memory-lru.js';
import { ReceiveOrders } from './receive-order.js';
import type { BlobSource, Fetched, Inflated, LayerProvider } from './types.js';

export interface LayerSetOptions {
  readonly cache: SpanCache;
  readonly pool: InflatePool;
  readonly metrics?: Metrics;
  readonly log?: Logger;
  /** False: a read fetches the spans it touches and nothing else. Default true. */
  readonly readahead?: boolean;
  /** Asked before the image source, filled behind it. */
  readonly contentCache?: ContentCache | undefined;
  /** For spans that the disk cache does not take. Default 64 MiB. */
  readonly memoryBytes?: number;
  /** Told of everything that was fetched. */
  readonly onFetched?: ((fetched: Fetched) => void) | undefined;
  /** Told of each span that was checked and inflated. */
  readonly onInflated?: ((inflated: Inflated) => void) | undefined;
}

export interface OpenLayerOptions extends Omit<LayerProvider, 'blobSize'> {
  readonly meta: LayerMeta;
  readonly table: SpanTable;
  /** The layer's bytes lie in this file, which is read where it lies. `key` tells files apart. */
  readonly file?: { readonly fd: number; readonly key: string } | undefined;
}

const DEFAULT_MEMORY_BYTES = 64 * 1024 * 1024;
/** Inflated bytes of an image waiting for each worker, beyond which nothing is fetched ahead for it: four spans of 2 MiB, or a profile's many small ones, which all come together. */
const MAX_BACKLOG_BYTES = 8 * 1024 * 1024;
/** How often the progress of sequential readers is looked at: FUSE workers answer them and send no message. */
const WATCH_MS = 5;

/** All lazily fetched layers of a process: one queue, one cache, one pool, and one LazyLayer per layer and span table. */
export class LayerSet {
  readonly #context: LayerContext;
  readonly #layers = new Map<string, LazyLayer>();
  readonly #watching = new Set<LazyLayer>();
  #timer: NodeJS.Timeout | null = null;

  constructor(options: LayerSetOptions) {
    const { cache, pool } = options;
    const metrics = options.metrics ?? new Metrics();
    const buffers = new BufferPool(() => pool.collect());
    const counters = lazyCounters(metrics);
    const links = new Links();
    const busy = (): boolean => {
      const { queue, activity } = this.#context;
      return queue.active > 0 || queue.waiting > 0 || pool.backlog > 0 || activity.quietFor === 0;
    };
    this.#context = {
      cache,
      pool,
      buffers,
      counters,
      queue: new FetchQueue((source) => pool.backlogBytes(source) > MAX_BACKLOG_BYTES * pool.size, links),
      memory: new MemoryLru(options.memoryBytes ?? DEFAULT_MEMORY_BYTES),
      log: options.log ?? silentLogger(),
      readahead: options.readahead ?? true,
      content: options.contentCache === undefined ? null : new ContentTier(options.contentCache, { ...options, busy }),
      activity: new Activity(),
      links,
      orders: new ReceiveOrders(),
      onFetched: options.onFetched ?? (() => {}),
      onInflated: options.onInflated ?? (() => {}),
    };
    const { queue, memory } = this.#context;
    metrics.gauge('requestsActive', () => queue.active);
    metrics.gauge('spansQueued', () => queue.waiting);
    metrics.gauge('memoryCacheBytes', () => memory.bytes);
    // Settles the accounts of read-ahead whenever metrics are read.
    metrics.addSource(() => {
      for (const layer of this.#layers.values()) layer.settleUnread();
      return {};
    });
  }

  open(options: OpenLayerOptions): LayerClaim {
    const { cache, buffers } = this.#context;
    const { meta, table, file } = options;
    const cached = file === undefined ? cache.layer(meta.digest, table) : cache.borrow(file.key, file.fd, table);
    let layer = this.#layers.get(cached.key);
    if (layer === undefined) {
      const made = new LazyLayer(options.meta, options.table, cached, this.#context);
      made.readahead.watch = () => this.#watch(made);
      this.#layers.set(cached.key, made);
      layer = made;
    }
    const opened = layer;
    const provider: LayerProvider = {
      source: options.source,
      blobSize: options.meta.size,
      readState: (span) => options.readState(span),
    };
    opened.addProvider(provider);
    return new LayerClaim(opened, provider, () => {
      if (!opened.removeProvider(provider)) {
        cache.release(cached);
        return;
      }
      opened.shutDown();
      this.#layers.delete(cached.key);
      this.#watching.delete(opened);
      if (this.#layers.size === 0) buffers.clear();
      // Workers may still be writing spans that were fetched ahead. The file stays open until they are done.
      void opened.drained().then(() => cache.release(cached));
    });
  }

  /**
   * Fetches the spans of a profile in its order (`archive.profile`, or profileSpans()), readers always first. Stops at the
   * cache's cap. `progress` is live; `finished` resolves when all have come, were given up or called off, and never rejects.
   * @param guess it is known from other starts only: it waits for its readers (by-profile.ts)
   */
  prefetch(
    claims: readonly LayerClaim[],
    profile: { readonly layer: Uint32Array; readonly span: Uint32Array },
    signal?: AbortSignal,
    guess = false,
  ): { progress: AheadProgress; finished: Promise<void> } {
    let bytes = 0;
    for (const [i, span] of profile.span.entries()) {
      bytes += claims[profile.layer[i]!]!.layer.spans.compressedBytes(span, span + 1);
    }
    const progress = newProgress(profile.span.length, bytes);
    return { progress, finished: prefetchProfile(claims, profile, this.#ahead, progress, signal, guess) };
  }

  /** Fetches all that is missing while readers are quiet. `progress` is live. */
  fill(claims: readonly LayerClaim[], pace: FillPace = {}): { progress: AheadProgress; finished: Promise<void> } {
    let [count, bytes] = [0, 0];
    for (const { layer } of claims) {
      const { spans } = layer;
      count += spans.count;
      for (let span = 0; span < spans.count; span++) bytes += spans.compressedBytes(span, span + 1);
    }
    const progress = newProgress(count, bytes);
    return { progress, finished: fill(claims, this.#ahead, progress, pace) };
  }

  /**
   * Fetches ahead what the files that are read lead to, and what readers are likely to come to. The caller closes it before the layers.
   * @param references read when they are first needed; null: none are wanted
   */
  follow(
    layers: readonly LayerClaim[],
    source: BlobSource,
    references: (() => References | null) | null,
    image: Pick<FollowedImage, 'map' | 'onFault'>,
  ): AheadOfReaders {
    const { cache, links } = this.#context;
    const followed = { ...image, layers, hasRoom: (bytes: number) => cache.hasRoom(bytes) };
    return new AheadOfReaders(
      { ...followed, link: () => links.of(source) },
      references === null
        ? null
        : () => {
            const known = references();
            return known === null ? null : { ...followed, references: known };
          },
    );
  }

  get #ahead(): AheadContext {
    const { cache, activity } = this.#context;
    return {
      hasRoom: (bytes) => cache.hasRoom(bytes),
      ready: ({ layer }) => cache.ready(layer.cached),
      quietFor: () => activity.quietFor,
    };
  }

  get content(): ContentTier | null {
    return this.#context.content;
  }

  /** Resolves when the content cache, if there is one, can be asked or is known to be away; at the latest after `ms`. */
  async contentReady(ms: number): Promise<void> {
    await this.#context.content?.ready(ms);
  }

  /** What was to be stored in the content cache and is not yet. */
  async contentIdle(): Promise<void> {
    await this.#context.content?.idle();
  }

  /** After all layers are closed. */
  async close(): Promise<void> {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
    await this.#context.content?.close();
  }

  #watch(layer: LazyLayer): void {
    this.#watching.add(layer);
    this.#timer ??= setInterval(() => {
      for (const watched of this.#watching) if (!watched.readahead.poll()) this.#watching.delete(watched);
      if (this.#watching.size === 0 && this.#timer !== null) {
        clearInterval(this.#timer);
        this.#timer = null;
      }
    }, WATCH_MS).unref();
  }
}
