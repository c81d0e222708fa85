import type { LayerMeta, SpanTable } from '../archive/index.js';
import { type ContentCache, ContentTier, type SpanCache } from '../cache/index.js';
import { type Logger, Metrics, silentLogger } from '../metrics/index.js';
import { Activity } from './activity.js';
import {
  type AheadContext,
  type AheadProgress,
  type FillOptions,
  fill,
  newProgress,
  prefetch,
} from './ahead/by-profile.js';
import { type FollowedImage, Follower } from './ahead/by-reference.js';
import { BufferPool } from './buffers.js';
import { type LazyCounters, lazyCounters } from './counters.js';
import { FetchQueue } from './fetch-queue.js';
import type { InflatePool } from './inflate-pool.js';
import { LazyLayer } from './lazy-layer.js';
import { MemoryLru } from './memory-lru.js';
import type { LayerProvider } from './types.js';

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
}

/** What the layers of one set share. */
export interface LayerContext {
  readonly cache: SpanCache;
  readonly pool: InflatePool;
  readonly queue: FetchQueue;
  readonly buffers: BufferPool;
  readonly memory: MemoryLru;
  readonly counters: LazyCounters;
  readonly log: Logger;
  readonly readahead: boolean;
  readonly content: ContentTier | null;
  readonly activity: Activity;
}

export interface OpenLayerOptions extends LayerProvider {
  readonly meta: LayerMeta;
  readonly table: SpanTable;
}

/** A claim on a layer; `layer` is shared by all that opened the same layer with the same span table. */
export interface OpenLayer {
  readonly layer: LazyLayer;
  /** No read of this claim may be under way, and no FUSE worker may use `layer.shared` for it any more. */
  close(): void;
}

const DEFAULT_MEMORY_BYTES = 64 * 1024 * 1024;
/** Compressed bytes in flight or waiting for a worker, beyond which nothing is fetched that nobody waits for. */
const MAX_BACKGROUND_BUFFERS = 64 * 1024 * 1024;
/** Inflated bytes waiting for each worker, likewise: four spans of 2 MiB, or a profile's many small ones, which come all at once. */
const MAX_BACKLOG_BYTES = 8 * 1024 * 1024;
/** How often progress of sequential readers is looked at: they are answered by workers and do not tell. */
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
    const buffers = new BufferPool();
    const counters = lazyCounters(metrics);
    this.#context = {
      cache,
      pool,
      buffers,
      counters,
      queue: new FetchQueue(
        () => pool.backlogBytes > MAX_BACKLOG_BYTES * pool.size || buffers.inUse > MAX_BACKGROUND_BUFFERS,
      ),
      memory: new MemoryLru(options.memoryBytes ?? DEFAULT_MEMORY_BYTES),
      log: options.log ?? silentLogger(),
      readahead: options.readahead ?? true,
      content: options.contentCache === undefined ? null : new ContentTier(options.contentCache, options),
      activity: new Activity(),
    };
    const { queue, memory } = this.#context;
    metrics.gauge('requestsActive', 'Range requests under way', () => queue.active);
    metrics.gauge('spansQueued', 'Spans that wait for a request', () => queue.waiting);
    metrics.gauge('memoryCacheBytes', 'Span bytes in memory for lack of a disk cache', () => memory.bytes);
    // Settles the accounts of read-ahead whenever somebody looks at them.
    metrics.addSource(() => {
      for (const layer of this.#layers.values()) layer.settleUnread();
      return {};
    });
  }

  open(options: OpenLayerOptions): OpenLayer {
    const { cache } = this.#context;
    const cached = cache.layer(options.meta.digest, options.table);
    let layer = this.#layers.get(cached.key);
    if (layer === undefined) {
      const made = new LazyLayer(options.meta, options.table, cached, this.#context);
      made.readahead.watch = () => this.#watch(made);
      this.#layers.set(cached.key, made);
      layer = made;
    }
    const opened = layer;
    const provider: LayerProvider = { source: options.source, readState: (span) => options.readState(span) };
    opened.addProvider(provider);
    let closed = false;
    return {
      layer: opened,
      close: () => {
        if (closed) return;
        closed = true;
        if (!opened.removeProvider(provider)) {
          cache.release(cached);
          return;
        }
        opened.shutDown();
        this.#layers.delete(cached.key);
        this.#watching.delete(opened);
        // Workers may be writing what was fetched ahead: the file stays open until they are done.
        void opened.drained().then(() => cache.release(cached));
      },
    };
  }

  /**
   * Fetches the spans of a profile in its order (`archive.profile`, or profileSpans()), readers always first. Stops at the
   * cache's cap. `progress` is live; `finished` resolves when all have come, were given up or called off, and never rejects.
   */
  prefetch(
    layers: readonly OpenLayer[],
    profile: { readonly layer: Uint32Array; readonly span: Uint32Array },
    signal?: AbortSignal,
  ): { progress: AheadProgress; finished: Promise<void> } {
    const lazy = layers.map((open) => open.layer);
    let bytes = 0;
    for (const [i, span] of profile.span.entries()) bytes += lazy[profile.layer[i]!]!.compressedBytes(span, span + 1);
    const progress = newProgress(profile.span.length, bytes);
    return { progress, finished: prefetch(lazy, profile, this.#ahead, progress, signal) };
  }

  /** Fetches all that is missing while readers are quiet. `progress` is live. */
  fill(layers: readonly OpenLayer[], options: FillOptions = {}): { progress: AheadProgress; finished: Promise<void> } {
    const lazy = layers.map((open) => open.layer);
    let [spans, bytes] = [0, 0];
    for (const layer of lazy) {
      spans += layer.count;
      for (let span = 0; span < layer.count; span++) bytes += layer.compressedBytes(span, span + 1);
    }
    const progress = newProgress(spans, bytes);
    return { progress, finished: fill(lazy, this.#ahead, progress, options) };
  }

  /** Fetches ahead what the files that are read lead to. The caller closes it before the layers. */
  follow(layers: readonly OpenLayer[], image: Omit<FollowedImage, 'layers' | 'hasRoom'>): Follower {
    const { cache } = this.#context;
    const lazy = layers.map((open) => open.layer);
    return new Follower({ ...image, layers: lazy, hasRoom: (bytes) => cache.hasRoom(bytes) });
  }

  get #ahead(): AheadContext {
    const { cache, activity } = this.#context;
    return {
      hasRoom: (bytes) => cache.hasRoom(bytes),
      ready: (layer) => cache.ready(layer.cached),
      quietFor: () => activity.quietFor,
    };
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
