import { type Logger, Metrics, silentLogger } from '../../metrics/index.js';
import { Breaker } from './breaker.js';
import { getNamed, putNamed } from './named.js';
import type { ContentCache, ContentOptions, LookupOptions } from './types.js';

export interface ContentTierOptions {
  readonly metrics?: Metrics;
  readonly log?: Logger;
  /** Time that a waiting reader may lose before the registry is asked. Default 50 ms. */
  readonly budgetMs?: number;
  /** Bytes waiting to be stored; more are dropped. Default 64 MiB. */
  readonly maxQueueBytes?: number;
  /** Default 30 s. */
  readonly storeBudgetMs?: number;
  /** Whether readers, or what is fetched for them, have use for the processor now: stores wait for a while. Default: never. */
  readonly busy?: () => boolean;
}

/** The urgency of a lookup. */
export interface Lookup {
  /** A reader waits: the lookup ends after the budget. */
  readonly waiting: boolean;
  /** Receives a function to call if a reader starts to wait for the lookup meanwhile. */
  onUrgent?(hurry: () => void): void;
}

const BUDGET_MS = 50;
/** Budget of fetching ahead, for which no reader waits: a slow shared cache may still spare the registry. */
const BACKGROUND_BUDGET_MS = 2000;
/** Of a stretch of a long content: several of 8 MiB may share a slow link. */
const STRETCH_BUDGET_MS = 30_000;
const MAX_QUEUE_BYTES = 64 * 1024 * 1024;
const PARALLEL_STORES = 4;
/** A store that takes longer is given up, so that a hanging one does not block the others. Long content has it for each 32 MiB. */
const STORE_BUDGET_MS = 30_000;
const STORE_BUDGET_BYTES = 32 * 1024 * 1024;
/**
 * Stores begin when readers have paused so long, or after this time, or when this share of the queue is full. Storing what a start had to fetch takes
 * a fifth of the server's processor time in it (docs/benchmarks.md, "Fetching").
 */
const PAUSE_MS = 500;
const MAX_DEFER_MS = 2000;
const MAX_DEFERRED_SHARE = 0.75;
const LOOK_MS = 50;
/** Recently stored hashes, which are not checked again. */
const MAX_REMEMBERED = 65_536;

interface Store {
  readonly hash: string;
  readonly length: number;
  /** Bytes that it holds in memory while it waits. */
  readonly held: number;
  readonly chunks: () => AsyncIterable<Uint8Array>;
  readonly routingKey: string;
}

/**
 * Keeps a ContentCache from delaying readers. Lookups have a time budget, a failing cache is left out quickly (a circuit breaker with a
 * half-open probe), and it is filled in the background from a bounded queue that drops entries. A cache that works but takes longer
 * than a reader may wait (a bucket far away) is still filled, and still asked when fetching ahead.
 */
export class ContentTier {
  readonly #cache: ContentCache;
  readonly #log: Logger;
  readonly #budget: number;
  readonly #maxQueue: number;
  readonly #storeBudget: number;
  readonly #busy: () => boolean;
  /** When the oldest store began to wait for a pause (performance.now); null: none waits. */
  #deferredAt: number | null = null;
  #busyAt = Number.NEGATIVE_INFINITY;
  #look: NodeJS.Timeout | null = null;
  readonly #counters;
  /** Settles when the cache is connected, or is known not to be there. Never rejects. */
  readonly #ready: Promise<void>;
  /** Aborts running calls. */
  readonly #closing = new AbortController();
  readonly #queue: Store[] = [];
  /** Told when a long content has been stored or given up. */
  readonly #ended = new Map<string, () => void>();
  /** Hashes queued or under way. */
  readonly #pending = new Set<string>();
  /** Hashes that are probably stored. */
  readonly #known = new Set<string>();
  /** Hashes with wrong content in the cache, to be overwritten. */
  readonly #poisonedHashes = new Set<string>();
  #queuedBytes = 0;
  #storing = 0;
  /** Lookups that were answered within the time that a waiting reader may lose, counted from such an answer before, and the last of them. */
  #quickAnswers = 0;
  #lastQuick = Number.NEGATIVE_INFINITY;
  /** Ends when the last copy that has asked for its turn has ended. */
  #copies: Promise<void> = Promise.resolve();
  #waitingCopies = 0;
  /** For waiting readers: also open while the cache works, but slower than their budget. */
  readonly #quick: Breaker;
  /** For all others: open if the cache does not work at all. */
  readonly #whole: Breaker;

  constructor(cache: ContentCache, options: ContentTierOptions = {}) {
    this.#cache = cache;
    this.#log = options.log ?? silentLogger();
    this.#budget = options.budgetMs ?? BUDGET_MS;
    this.#maxQueue = options.maxQueueBytes ?? MAX_QUEUE_BYTES;
    this.#storeBudget = options.storeBudgetMs ?? STORE_BUDGET_MS;
    this.#busy = options.busy ?? (() => false);
    // The first lookup meets a refusal again, and counts it.
    this.#ready = Promise.resolve(cache.connect?.()).catch(() => {});
    const metrics = options.metrics ?? new Metrics();
    this.#counters = {
      hits: metrics.counter('contentHits'),
      bytes: metrics.counter('contentBytes'),
      misses: metrics.counter('contentMisses'),
      errors: metrics.counter('contentErrors'),
      timeouts: metrics.counter('contentTimeouts'),
      skipped: metrics.counter('contentSkipped'),
      poisoned: metrics.counter('contentPoisoned'),
      stored: metrics.counter('contentStored'),
      dropped: metrics.counter('contentDropped'),
    };
    metrics.gauge('contentQueueBytes', () => this.#queuedBytes);
    metrics.gauge('contentAvailable', () => (this.#quick.tripped || this.#whole.tripped ? 0 : 1));
    const logged = (open: string, closed: string) => (isOpen: boolean, cause: string) => {
      if (isOpen) this.#log.error({ cause }, open);
      else this.#log.info(closed);
    };
    this.#quick = new Breaker(
      logged('the content cache keeps readers waiting: doing without for now', 'the content cache is quick again'),
    );
    this.#whole = new Breaker(
      logged('the content cache is unavailable: doing without for now', 'the content cache answers again'),
    );
  }

  /** Resolves when the cache is connected or known to be away, at the latest after `ms`. */
  async ready(ms: number): Promise<void> {
    await withTimeout(this.#ready, ms, () => undefined);
  }

  /**
   * The content if it comes in time; null: look elsewhere. Never rejects. Not verified.
   * @param allocate memory that it may be read into. If the result is not in it, it is not to be used again: late bytes may come into it
   */
  get(
    hash: string,
    length: number,
    routingKey: string,
    lookup: Lookup,
    allocate?: LookupOptions['allocate'],
  ): Promise<Uint8Array | null> {
    return this.#get(hash, 0, length, routingKey, lookup, BACKGROUND_BUDGET_MS, allocate);
  }

  /** Bytes [offset, offset + length) of a long content, for which no reader waits. Otherwise as `get`. */
  getStretch(hash: string, offset: number, length: number, routingKey: string): Promise<Uint8Array | null> {
    return this.#get(hash, offset, length, routingKey, { waiting: false }, STRETCH_BUDGET_MS);
  }

  async #get(
    hash: string,
    offset: number,
    length: number,
    routingKey: string,
    lookup: Lookup,
    backgroundMs: number,
    allocate?: LookupOptions['allocate'],
  ): Promise<Uint8Array | null> {
    const { waiting } = lookup;
    // For a waiting reader the quick breaker is asked last: if it admits the call, the call is made and its end reported.
    const breaker = waiting ? this.#quick : this.#whole;
    if ((waiting && this.#whole.open) || !breaker.admit()) {
      this.#counters.skipped.add();
      return null;
    }
    const abort = new AbortController();
    const asked = performance.now();
    const patience = new Patience(() => this.#quickAnswers);
    try {
      patience.within(waiting ? this.#budget : backgroundMs);
      if (!waiting) lookup.onUrgent?.(() => patience.within(this.#budget));
      const options: LookupOptions = { routingKey, signal: abort.signal, allocate };
      const call = this.#cache.getContent(hash, offset, length, options);
      call.catch(() => {}); // after the time-out no caller listens
      const found = await Promise.race([call, patience.end]);
      if (found === 'timeout') {
        this.#counters.timeouts.add();
        breaker.failed('it did not answer in time');
        abort.abort();
        return null;
      }
      const now = performance.now();
      if (now - Math.max(asked, this.#lastQuick) <= this.#budget) {
        this.#quickAnswers++;
        this.#lastQuick = now;
      }
      breaker.succeeded();
      if (found === null || found.length !== length) {
        this.#counters.misses.add();
        // Stored content is missing: evicted, expired, or lost by a restart.
        this.#known.delete(hash);
        return null;
      }
      this.#counters.hits.add();
      this.#counters.bytes.add(length);
      return found;
    } catch (error) {
      this.#counters.errors.add();
      breaker.failed(String(error));
      return null;
    } finally {
      lookup.onUrgent?.(() => {});
      patience.stop();
    }
  }

  /**
   * Waits until `work` ends, at most as long as for a lookup that began at `since` (performance.now()): a reader may lose that once, not
   * with each of its reads.
   */
  async wait(work: Promise<unknown>, since: number, { waiting, onUrgent }: Lookup): Promise<void> {
    const left = (): number => Math.max(0, since + this.#budget - performance.now());
    const patience = new Patience(() => this.#quickAnswers);
    if (waiting && left() === 0) return;
    patience.within(waiting ? left() : BACKGROUND_BUDGET_MS);
    if (!waiting) onUrgent?.(() => patience.within(left()));
    await Promise.race([work, patience.end]);
    onUrgent?.(() => {});
    patience.stop();
  }

  /** Copies of long contents are made one after the other. `work` must not reject. `atOnce`: no other one was under way. */
  inTurn(work: () => Promise<void>): { readonly atOnce: boolean; readonly ended: Promise<void> } {
    const atOnce = this.#waitingCopies++ === 0;
    this.#copies = (atOnce ? work() : this.#copies.then(work)).finally(() => this.#waitingCopies--);
    return { atOnce, ended: this.#copies };
  }

  /** Its content did not match the hash. The right bytes, fetched from the registry, will replace it. */
  poisoned(hash: string): void {
    this.#counters.poisoned.add();
    this.#log.error({ hash }, 'the content cache holds other bytes than the hash says: ignored');
    this.#known.delete(hash);
    remember(this.#poisonedHashes, hash);
  }

  /** Whether `put` would queue it, so that a caller can save the copy otherwise. */
  wants(hash: string, length: number): boolean {
    if (this.#pending.has(hash) || this.#known.has(hash)) return false;
    if (this.#queuedBytes + length <= this.#maxQueue && !this.#whole.open) return true;
    this.#counters.dropped.add();
    return false;
  }

  /** Queues verified content to be stored, unless the cache has it. Takes `bytes` over. */
  put(hash: string, bytes: Uint8Array, routingKey: string): void {
    this.#pending.add(hash);
    const { length } = bytes;
    this.#enqueue({ hash, length, held: length, chunks: () => once(bytes), routingKey });
  }

  /** The same of content that is read when it is stored, and may be long. Resolves when it has been stored or given up. */
  async putStream(
    hash: string,
    length: number,
    chunks: () => AsyncIterable<Uint8Array>,
    routingKey: string,
  ): Promise<void> {
    this.#pending.add(hash);
    await new Promise<void>((resolve) => {
      this.#ended.set(hash, resolve);
      this.#enqueue({ hash, length, held: 0, chunks, routingKey });
    });
  }

  /**
   * The content of a name (named.ts), if it comes within `ms`; null: there is none. Not verified.
   * @throws Error that says why it cannot be had
   */
  async getNamed(name: string, limit: number, routingKey: string, ms: number): Promise<Uint8Array | null> {
    if (this.#whole.open) throw new Error('the content cache has not answered for a while');
    return this.#within(ms, (signal) => getNamed(this.#cache, name, limit, { routingKey, signal }));
  }

  /** Stores content under a name, in place of what is there. @throws Error that says why it cannot */
  async putNamed(name: string, content: Uint8Array, routingKey: string): Promise<void> {
    await this.#within(this.#storeBudget, (signal) => putNamed(this.#cache, name, content, { routingKey, signal }));
  }

  /** A call that is not of spans says nothing about them: the breakers do not hear of it. */
  async #within<T>(ms: number, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const abort = new AbortController();
    const off = (): void => abort.abort();
    this.#closing.signal.addEventListener('abort', off, { once: true });
    try {
      const call = work(abort.signal);
      call.catch(() => {}); // after the time-out no caller listens
      return await withTimeout(call, ms, () => {
        throw new Error(`the content cache did not answer within ${ms} ms`);
      });
    } finally {
      abort.abort();
      this.#closing.signal.removeEventListener('abort', off);
    }
  }

  #enqueue(store: Store): void {
    this.#queue.push(store);
    this.#queuedBytes += store.held;
    this.#work();
  }

  /** Resolves when everything queued has been stored or given up. */
  async idle(): Promise<void> {
    while (this.#storing > 0 || this.#queue.length > 0) await new Promise((resolve) => setTimeout(resolve, 5));
  }

  async close(): Promise<void> {
    if (this.#look !== null) clearTimeout(this.#look);
    this.#queue.length = 0;
    this.#pending.clear();
    this.#queuedBytes = 0;
    this.#closing.abort();
    for (const resolve of this.#ended.values()) resolve();
    this.#ended.clear();
    await this.#cache.close?.();
  }

  /** Whether what is queued waits for a pause of the readers. To be asked again and again: it notes when they were busy. */
  #waitsForPause(): boolean {
    if (this.#queue.length === 0) {
      this.#deferredAt = null;
      return false;
    }
    const now = performance.now();
    this.#deferredAt ??= now;
    const late = now - this.#deferredAt >= MAX_DEFER_MS;
    if (this.#busy()) this.#busyAt = now;
    return !late && this.#queuedBytes < this.#maxQueue * MAX_DEFERRED_SHARE && now - this.#busyAt < PAUSE_MS;
  }

  #work(): void {
    if (this.#waitsForPause()) {
      this.#look ??= setTimeout(() => {
        this.#look = null;
        this.#work();
      }, LOOK_MS).unref();
      return;
    }
    while (this.#storing < PARALLEL_STORES && this.#queue.length > 0) {
      const store = this.#queue.shift()!;
      this.#storing++;
      void this.#store(store).finally(() => {
        this.#pending.delete(store.hash);
        this.#ended.get(store.hash)?.();
        this.#ended.delete(store.hash);
        this.#storing--;
        this.#queuedBytes = Math.max(0, this.#queuedBytes - store.held);
        this.#work();
      });
    }
  }

  async #store({ hash, length, chunks, routingKey }: Store): Promise<void> {
    if (!this.#whole.admit()) {
      this.#counters.dropped.add();
      return;
    }
    const abort = new AbortController();
    const { signal } = abort;
    const off = (): void => abort.abort();
    this.#closing.signal.addEventListener('abort', off, { once: true });
    try {
      const call = this.#storeMissing(hash, length, chunks, { routingKey, signal });
      call.catch(() => {}); // after the time-out no caller listens
      const budget = this.#storeBudget * Math.max(1, Math.ceil(length / STORE_BUDGET_BYTES));
      const there = await withTimeout(call, budget, () => {
        throw new Error('a store did not end in time');
      });
      if (there) remember(this.#known, hash);
      this.#whole.succeeded();
    } catch (error) {
      this.#counters.errors.add();
      if (!this.#closing.signal.aborted) this.#whole.failed(String(error));
      abort.abort();
    } finally {
      this.#closing.signal.removeEventListener('abort', off);
    }
  }

  /** @returns false: another machine is storing it */
  async #storeMissing(
    hash: string,
    length: number,
    chunks: () => AsyncIterable<Uint8Array>,
    options: ContentOptions,
  ): Promise<boolean> {
    const replaces = this.#poisonedHashes.has(hash);
    if (!replaces && (await this.#cache.has?.(hash, { ...options, length }))) return true;
    if ((await this.#cache.storeContent(chunks(), hash, options)) === null) return false;
    this.#poisonedHashes.delete(hash);
    this.#counters.stored.add();
    return true;
  }
}

/** The oldest entries are removed first. */
function remember(hashes: Set<string>, hash: string): void {
  if (hashes.size >= MAX_REMEMBERED) hashes.delete(hashes.keys().next().value!);
  hashes.add(hash);
}

/** A lookup is checked this many times before it is given up. */
const LOOKS = 4;

/** Limits that pass at the most while other lookups are answered quickly. */
const MAX_LIMITS = 4;

/**
 * A time limit for an answer. Of a period in which this thread was busy and could not receive the answer, only a quarter of the limit
 * counts. Otherwise the thread's own delays would make a good cache look slow. While other lookups are answered quickly the limit begins
 * again: a burst of lookups is answered one after the other, and the registry would be no sooner with what is in the middle of it.
 */
class Patience {
  readonly end: Promise<'timeout'>;
  #end!: () => void;
  #timer: NodeJS.Timeout | undefined;
  readonly #answers: () => number;

  /** @param answers  how many lookups were answered quickly so far */
  constructor(answers: () => number) {
    this.#answers = answers;
    this.end = new Promise((resolve) => {
      this.#end = () => resolve('timeout');
    });
  }

  /** Ends it this many milliseconds from now. */
  within(ms: number): void {
    this.stop();
    let limits = 1;
    let answers = this.#answers();
    const look = (left: number): void => {
      if (left > 0) {
        this.#timer = setTimeout(look, ms / LOOKS, left - 1);
      } else if (limits < MAX_LIMITS && this.#answers() !== answers) {
        limits++;
        answers = this.#answers();
        look(LOOKS);
      } else {
        // Answers that have arrived meanwhile are handled before the next check.
        setImmediate(this.#end);
      }
    };
    look(LOOKS);
  }

  stop(): void {
    clearTimeout(this.#timer);
  }
}

async function* once(bytes: Uint8Array): AsyncIterable<Uint8Array> {
  yield bytes;
}

/** The result of `work` or, after `ms`, that of `late`. */
async function withTimeout<T>(work: Promise<T>, ms: number, late: () => T): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<'late'>((resolve) => {
    timer = setTimeout(() => resolve('late'), ms);
  });
  try {
    const first = await Promise.race([work.then((value) => ({ value })), timeout]);
    return first === 'late' ? late() : first.value;
  } finally {
    clearTimeout(timer);
  }
}
