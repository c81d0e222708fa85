import type { ContentTier, SpanCache } from '../cache/index.js';
import type { Logger } from '../metrics/index.js';
import type { Activity } from './activity.js';
import type { BufferPool } from './buffers.js';
import type { LazyCounters } from './counters.js';
import type { FetchQueue } from './fetch-queue.js';
import type { InflatePool } from './inflate-pool.js';
import type { Links } from './link.js';
import type { MemoryLru } from './memory-lru.js';
import type { ReceiveOrders } from './receive-order.js';
import type { Fetched, Inflated } from './types.js';

/** What the layers of one LayerSet share. */
export interface LayerContext {
  readonly cache: SpanCache;
  readonly pool: InflatePool;
  readonly queue: FetchQueue;
  readonly buffers: BufferPool;
  /** Spans that the disk does not take. */
  readonly memory: MemoryLru;
  readonly counters: LazyCounters;
  readonly log: Logger;
  /** False: a read fetches the spans that it needs and no others. */
  readonly readahead: boolean;
  /** Null: there is no content cache. */
  readonly content: ContentTier | null;
  readonly activity: Activity;
  /** What the ways to the sources cost. */
  readonly links: Links;
  readonly orders: ReceiveOrders;
  /** Told of everything that was fetched. */
  readonly onFetched: (fetched: Fetched) => void;
  /** Told of each span that was checked and inflated. */
  readonly onInflated: (inflated: Inflated) => void;
}
