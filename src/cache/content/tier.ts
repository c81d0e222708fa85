import { type Logger, Metrics, silentLogger } from '../../metrics/index.js';
import type { ContentCache } from './types.js';

export interface ContentTierOptions {
  readonly metrics?: Metrics;
  readonly log?: Logger;
  /** How long a reader who waits may be kept from the registry. Default 50 ms. */
  readonly budgetMs?: number;
  /** Bytes waiting to be stored; more are dropped. Default 64 MiB. */
  readonly maxQueueBytes?: number;
}

const BUDGET_MS = 50;
/** Nobody waits for what is fetched ahead: a slow shared cache may still spare the registry. */
const BACKGROUND_BUDGET_MS = 2000;
const MAX_QUEUE_BYTES = 64 * 1024 * 1024;
const PARALLEL_STORES = 4;
/** So many failures one after the other, and it is not asked for a while. */
const FAILURES_TO_OPEN = 3;
const FIRST_PAUSE_MS = 1000;
const MAX_PAUSE_MS = 30_000;
/** Stored lately: not worth asking about again. */
const MAX_REMEMBERED = 65_536;

interface Store {
  readonly hash: string;
  readonly bytes: Uint8Array;
  readonly routingKey: string;
}

/**
 * A ContentCache held at arm's length: looked up within a time budget, given up on quickly when it fails (circuit breaker
 * with a half-open probe), filled in the background from a queue that drops rather than grows.
 */
export class ContentTier {
  readonly #cache: ContentCache;
  readonly #log: Logger;
  readonly #budget: number;
  readonly #maxQueue: number;
  readonly #counters;
  readonly #queue: Store[] = [];
  /** Hashes queued, under way or stored. */
  readonly #known = new Set<string>();
  /** Known to be wrong in the cache: to be stored over. */
  readonly #poisonedHashes = new Set<string>();
  #queuedBytes = 0;
  #storing = 0;
  #failures = 0;
  #pause = 0;
  #closedUntil = 0;
  #probing = false;

  constructor(cache: ContentCache, options: ContentTierOptions = {}) {
    this.#cache = cache;
    this.#log = options.log ?? silentLogger();
    this.#budget = options.budgetMs ?? BUDGET_MS;
    this.#maxQueue = options.maxQueueBytes ?? MAX_QUEUE_BYTES;
    const metrics = options.metrics ?? new Metrics();
    this.#counters = {
      hits: metrics.counter('contentHits', 'Spans found in the content cache'),
      bytes: metrics.counter('contentBytes', 'Compressed bytes from the content cache'),
      misses: metrics.counter('contentMisses', 'Spans the content cache did not have'),
      errors: metrics.counter('contentErrors', 'Calls of the content cache that failed'),
      timeouts: metrics.counter('contentTimeouts', 'Lookups in the content cache that took too long'),
      skipped: metrics.counter('contentSkipped', 'Lookups not made because the content cache was unavailable'),
      poisoned: metrics.counter('contentPoisoned', 'Spans from the content cache that were not what their hash says'),
      stored: metrics.counter('contentStored', 'Spans stored in the content cache'),
      dropped: metrics.counter(
        'contentDropped',
        'Spans not stored because the queue was full or the cache unavailable',
      ),
    };
    metrics.gauge('contentQueueBytes', 'Bytes waiting to be stored in the content cache', () => this.#queuedBytes);
    metrics.gauge('contentAvailable', '1 unless the content cache is given up on for now', () =>
      this.#open() ? 0 : 1,
    );
  }

  /** The content if it comes in time; null: look elsewhere. Never rejects. Not verified. */
  async get(hash: string, length: number, routingKey: string, waiting: boolean): Promise<Uint8Array | null> {
    if (!this.#admit()) {
      this.#counters.skipped.add();
      return null;
    }
    const abort = new AbortController();
    let timer: NodeJS.Timeout | undefined;
    try {
      const timeout = new Promise<'timeout'>((resolve) => {
        timer = setTimeout(() => resolve('timeout'), waiting ? this.#budget : BACKGROUND_BUDGET_MS);
      });
      const call = this.#cache.getContent(hash, 0, length, { routingKey, signal: abort.signal });
      call.catch(() => {}); // after the time-out nobody listens
      const found = await Promise.race([call, timeout]);
      if (found === 'timeout') {
        this.#counters.timeouts.add();
        this.#failed('it did not answer in time');
        abort.abort();
        return null;
      }
      this.#succeeded();
      if (found === null || found.length !== length) {
        this.#counters.misses.add();
        return null;
      }
      this.#counters.hits.add();
      this.#counters.bytes.add(length);
      return found;
    } catch (error) {
      this.#counters.errors.add();
      this.#failed(String(error));
      return null;
    } finally {
      clearTimeout(timer);
    }
  }

  /** What came from it was not what its hash says. Fetched from the registry, the right bytes will replace it. */
  poisoned(hash: string): void {
    this.#counters.poisoned.add();
    this.#log.error({ hash }, 'the content cache holds other bytes than the hash says: ignored');
    this.#known.delete(hash);
    this.#poisonedHashes.add(hash);
  }

  /** Whether `put` would queue it: spare yourself the copy otherwise. */
  wants(hash: string, length: number): boolean {
    if (this.#known.has(hash)) return false;
    if (this.#queuedBytes + length <= this.#maxQueue && !this.#open()) return true;
    this.#counters.dropped.add();
    return false;
  }

  /** Queues verified content to be stored, unless the cache has it. Takes `bytes` over. */
  put(hash: string, bytes: Uint8Array, routingKey: string): void {
    if (this.#known.size >= MAX_REMEMBERED) this.#known.delete(this.#known.keys().next().value!);
    this.#known.add(hash);
    this.#queue.push({ hash, bytes, routingKey });
    this.#queuedBytes += bytes.length;
    this.#work();
  }

  /** Resolves when everything queued has been stored or given up. */
  async idle(): Promise<void> {
    while (this.#storing > 0 || this.#queue.length > 0) await new Promise((resolve) => setTimeout(resolve, 5));
  }

  async close(): Promise<void> {
    this.#queue.length = 0;
    this.#queuedBytes = 0;
    await this.#cache.close?.();
  }

  #work(): void {
    while (this.#storing < PARALLEL_STORES && this.#queue.length > 0) {
      const store = this.#queue.shift()!;
      this.#storing++;
      void this.#store(store).finally(() => {
        this.#storing--;
        this.#queuedBytes = Math.max(0, this.#queuedBytes - store.bytes.length);
        this.#work();
      });
    }
  }

  async #store({ hash, bytes, routingKey }: Store): Promise<void> {
    if (!this.#admit()) {
      this.#known.delete(hash);
      this.#counters.dropped.add();
      return;
    }
    try {
      const replaces = this.#poisonedHashes.delete(hash);
      if (replaces || !(await this.#cache.has?.(hash, { routingKey }))) {
        await this.#cache.storeContent(once(bytes), hash, { routingKey });
        this.#counters.stored.add();
      }
      this.#succeeded();
    } catch (error) {
      this.#known.delete(hash);
      this.#counters.errors.add();
      this.#failed(String(error));
    }
  }

  /** The breaker is open: the cache is not to be asked. */
  #open(): boolean {
    return this.#pause > 0 && performance.now() < this.#closedUntil;
  }

  /** May this call be made? After a pause one call goes ahead as a probe, and the others wait for what becomes of it. */
  #admit(): boolean {
    if (this.#pause === 0) return true;
    if (this.#open() || this.#probing) return false;
    this.#probing = true;
    return true;
  }

  #succeeded(): void {
    if (this.#pause > 0) this.#log.info('the content cache answers again');
    this.#failures = 0;
    this.#pause = 0;
    this.#probing = false;
  }

  #failed(cause: string): void {
    this.#failures++;
    const probe = this.#probing;
    this.#probing = false;
    if (!probe && this.#failures < FAILURES_TO_OPEN) return;
    if (this.#open()) return;
    if (this.#pause === 0) this.#log.error({ cause }, 'the content cache is unavailable: doing without for now');
    this.#pause = Math.min(MAX_PAUSE_MS, Math.max(FIRST_PAUSE_MS, this.#pause * 2));
    this.#closedUntil = performance.now() + this.#pause;
  }
}

async function* once(bytes: Uint8Array): AsyncIterable<Uint8Array> {
  yield bytes;
}
