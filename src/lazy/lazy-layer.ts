import type { LayerMeta, SpanTable } from '../archive/index.js';
import type { SpanIndex } from '../bytes/index.js';
import { ClipError } from '../bytes/index.js';
import { type CachedLayer, Occupied } from '../cache/index.js';
import { LayerSpans, noteUse, publish, type SharedLayer } from '../spans/index.js';
import { Readahead } from './ahead/sequential.js';
import type { LayerContext } from './context.js';
import { Priority } from './inflate-tasks.js';
import { aborted, type SpanFetcher, type SpanJob, type SpanResult } from './job.js';
import { RangeFetcher } from './range-fetcher.js';
import { SpanJobs } from './span-jobs.js';
import { StreamFetchers } from './stream-fetcher.js';
import type { LayerProvider, ReadOptions } from './types.js';

/** A span that vanishes between fill and copy (a disk that cannot read back what it took) is filled again this often. */
const MAX_READ_ATTEMPTS = 3;

/**
 * A reader that joins another image's fetch waits this long for it; then the span is fetched from the reader's own source, too.
 * Several round trips to a registry that works, and well below a second.
 */
const RIVAL_MS = 250;

/** The uncompressed bytes of one layer, fetched span by span as they are asked for. Made by LayerSet.open. */
export class LazyLayer {
  readonly spans: LayerSpans;
  readonly cached: CachedLayer;
  readonly readahead: Readahead;
  readonly #context: LayerContext;
  readonly #jobs: SpanJobs;
  readonly #fetcher: SpanFetcher;

  constructor(meta: LayerMeta, table: SpanTable, cached: CachedLayer, context: LayerContext) {
    this.spans = new LayerSpans(meta.digest, table);
    this.cached = cached;
    this.#context = context;
    this.#jobs = new SpanJobs(this.spans, cached, context);
    this.#fetcher =
      table.kind === 'zstd-stream'
        ? new StreamFetchers(this.#jobs, context)
        : new RangeFetcher(this.#jobs, context, table.kind);
    this.readahead = new Readahead(this);
    this.#jobs.content?.attach(this);
  }

  /** It can be decoded in order only. */
  get streamed(): boolean {
    return this.spans.table.kind === 'zstd-stream';
  }

  /** For FUSE workers, which answer hits by themselves. */
  get shared(): SharedLayer {
    return this.cached.shared;
  }

  addProvider(provider: LayerProvider): void {
    this.#jobs.providers.add(provider);
  }

  /** True when no provider is left. */
  removeProvider(provider: LayerProvider): boolean {
    this.#jobs.providers.remove(provider);
    this.#fetcher.providerLeft(provider);
    return this.#jobs.providers.count === 0;
  }

  /**
   * Bytes [offset, offset + length) of the uncompressed layer. What is missing is fetched, verified and inflated first.
   * @throws RangeError outside the layer; ClipError DIGEST_MISMATCH, NETWORK, UNAUTHORIZED, …; ABORTED by the signal
   */
  async read(provider: LayerProvider, offset: number, length: number, options: ReadOptions = {}): Promise<Uint8Array> {
    const { spans, cached } = this;
    if (!(offset >= 0 && length >= 0 && offset + length <= spans.size)) {
      throw new RangeError(`bytes ${offset} to ${offset + length} of a layer of ${spans.size}`);
    }
    if (length === 0) return new Uint8Array(0);
    if (options.signal?.aborted) throw aborted(spans.digest, options.signal.reason);
    const first = spans.at(offset);
    const last = spans.at(offset + length - 1);
    // Held from here on, so that what was waited for is not evicted before it is copied.
    for (let span = first; span <= last; span++) cached.hold(span);
    const interrupt = new Interrupt(options.signal, spans.digest);
    const out = Buffer.allocUnsafeSlow(length);
    try {
      for (let attempt = 1; ; attempt++) {
        const waits: Promise<boolean>[] = [];
        for (let span = first; span <= last; span++) {
          // Copied as soon as it is there, because a span in memory may be a thousand times as long as the read.
          const take = (bytes: SpanResult): boolean => copySpan(out, offset, spans.start(span), bytes);
          const recheck = options.recheck === true && this.cached.present(span);
          const ready = recheck
            ? this.#recheck(span).then(() => this.#await(provider, span, interrupt, options.onSource))
            : null;
          waits.push((ready ?? this.#await(provider, span, interrupt, options.onSource)).then(take));
        }
        if (attempt === 1 && options.file !== undefined && this.#context.readahead) {
          this.readahead.onRead(provider, options.file, offset, first, last);
        }
        const copied = await Promise.all(waits);
        if (this.#jobs.file.copyOut(out, offset, first, copied)) return out;
        if (attempt === MAX_READ_ATTEMPTS) {
          throw new ClipError('SYSTEM', `layer ${spans.digest}: its cache file cannot be read back`, {
            hint: 'look for disk errors in the kernel log',
          });
        }
      }
    } finally {
      interrupt.done();
      for (let span = first; span <= last; span++) cached.unhold(span);
    }
  }

  /** True when a read of the span would not have to wait. */
  has(span: SpanIndex): boolean {
    return this.cached.present(span) || this.#context.memory.has(this.shared.id, span);
  }

  /** Whether bytes [offset, offset + length) are in the cache's file. */
  cachedAll(offset: number, length: number): boolean {
    const last = this.spans.at(offset + length - 1);
    for (let span = this.spans.at(offset); span <= last; span++) if (!this.cached.present(span)) return false;
    return true;
  }

  /** Fills `out` as `read` would, without counting as a use. False if not all of it is in the cache's file. */
  peek(offset: number, out: Uint8Array): boolean {
    if (!this.cachedAll(offset, out.length)) return false;
    const { spans, cached } = this;
    const [first, end] = [spans.at(offset), spans.at(offset + out.length - 1) + 1];
    for (let span = first; span < end; span++) cached.hold(span);
    const copied = this.#jobs.file.copyOut(out, offset, first, new Array<boolean>(end - first).fill(false));
    for (let span = first; span < end; span++) cached.unhold(span);
    return copied;
  }

  /** True while the span is being fetched. */
  fetching(span: SpanIndex): boolean {
    return this.#jobs.get(span) !== undefined;
  }

  /**
   * Asks for a span without waiting; null when it is there already. The promise settles when the span is there or was given
   * up. `cancelAhead` takes the wish back.
   */
  ahead(provider: LayerProvider, span: SpanIndex, priority: Exclude<Priority, 0>): Promise<SpanResult> | null {
    if (this.has(span)) return null;
    const job = this.#jobs.get(span) ?? this.#begin(span, priority, provider);
    job.background = true;
    this.#raise(job, priority);
    return job.promise;
  }

  /** The span is not wanted ahead any more; readers that wait for it still get it. */
  cancelAhead(span: SpanIndex): void {
    const job = this.#jobs.get(span);
    if (job === undefined) return;
    job.background = false;
    this.#jobs.reconsider(job);
  }

  /** Fails what is under way. The set calls it after the last release. */
  shutDown(): void {
    this.#jobs.content?.close();
    for (const job of this.#jobs.all()) {
      job.waiters = 0;
      job.background = false;
      this.#jobs.reconsider(job);
    }
    this.#fetcher.close();
    this.settleUnread(true);
  }

  /** Resolves when no thread uses the cache file for this layer's sake any more. After shutDown. */
  async drained(): Promise<void> {
    await this.#jobs.drained();
    this.#context.memory.deleteLayer(this.shared.id);
  }

  /** Brings the accounts of what was fetched ahead up to date. */
  settleUnread(final = false): void {
    this.#jobs.unread.settle(
      (span) => this.shared.lastUse[span]! > 0,
      (span) => final || (!this.fetching(span) && !this.has(span)),
    );
  }

  /** A span for a reader: from the cache, from memory, or from a job that it waits for. */
  #await(
    provider: LayerProvider,
    span: SpanIndex,
    interrupt: Interrupt,
    onSource?: OnSource,
    again = false,
  ): Promise<SpanResult> {
    const { counters, memory, queue } = this.#context;
    if (this.cached.present(span)) {
      onSource?.('disk_cache');
      counters.spanHits.add();
      noteUse(this.shared, span);
      return Promise.resolve(null);
    }
    const bytes = memory.get(this.shared.id, span);
    if (bytes !== undefined) {
      onSource?.('disk_cache');
      counters.spanHits.add();
      noteUse(this.shared, span);
      void this.#jobs.track(this.#jobs.file.promote(span, bytes));
      return Promise.resolve(bytes);
    }
    counters.spanMisses.add();
    const job = this.#jobs.get(span) ?? this.#begin(span, Priority.demand, provider);
    if (job.waiters === 0 && job.provider !== provider) queue.takeOver(job, provider);
    job.waiters++;
    this.#raise(job, Priority.demand);
    return this.#join(job, provider, interrupt, onSource, again);
  }

  #begin(span: SpanIndex, priority: Priority, provider: LayerProvider): SpanJob {
    const job = this.#jobs.begin(span, priority, provider);
    if (this.#jobs.refuseDamaged(job)) return job;
    if (this.cached.unverified(span)) void this.#jobs.track(this.#check(job));
    else this.#fetcher.add(job);
    return job;
  }

  /** The other image's registry may be slow, or dead. @returns false: it is not the time for it */
  #rival(job: SpanJob, provider: LayerProvider): boolean {
    const rival = this.#jobs.beginRival(job, provider);
    if (rival !== null) this.#fetcher.add(rival);
    return rival !== null;
  }

  #raise(job: SpanJob, priority: Priority): void {
    if (priority >= job.priority) return;
    if (job.task !== null) this.#context.pool.raise(job.task, priority);
    this.#context.queue.raise(job, priority);
  }

  /** Checks a span that is in the cache. One that is wrong is not there any more afterwards. */
  async #recheck(span: SpanIndex): Promise<void> {
    const { shared } = this;
    const { spans, cached } = this;
    const blocks = spans.blocks(span);
    if (blocks !== null && blocks.part !== null) return; // a part of a long block proves nothing alone
    const target = { fd: shared.fd, position: spans.start(span), span, generations: shared.generations };
    const task = { type: 'check', outLength: spans.length(span), crc32: spans.crc32(span), blocks, target } as const;
    if ((await this.#context.pool.run(task, Priority.demand, this)).status !== 'stored') cached.forget(span);
  }

  /** First use after a restart: what lies in the file may be the span. */
  async #check(job: SpanJob): Promise<void> {
    const { pool, counters, log } = this.#context;
    const { spans, cached, shared } = this;
    const { span } = job;
    job.phase = 'inflating';
    const started = performance.now();
    this.#jobs.stamp(span, job.priority);
    const target = { fd: shared.fd, position: spans.start(span), span, generations: shared.generations };
    try {
      const blocks = spans.blocks(span);
      // A part of a long block proves nothing alone: what an earlier run left of it is fetched again. In the archive's own file
      // there is nothing else to be had.
      if (blocks !== null && blocks.part !== null && !cached.borrowed) {
        this.#fetcher.add(job);
        return;
      }
      job.task = { type: 'check', outLength: spans.length(span), crc32: spans.crc32(span), blocks, target };
      const result = await pool.run(job.task, job.priority, job.provider.source);
      job.task = null;
      if (result.status === 'stored') {
        counters.spansChecked.add();
        job.source = 'disk_cache';
        this.#jobs.fetched([{ span, fetchedAs: job.priority }], 'disk_cache', spans.length(span), started);
        cached.occupy(span, Occupied.yes);
        if (this.#jobs.isDamaged(job, result.part)) return;
        if (result.part !== undefined) publish(target);
        this.#jobs.settle(job, null);
        return;
      }
      counters.spansDamaged.add();
      if (result.status === 'absent' && result.detail !== undefined) {
        log.error({ layer: spans.digest, span, error: result.detail }, 'a cache file cannot be read');
      }
      if (job.wanted) this.#fetcher.add(job);
      else this.#jobs.abandon(job);
    } catch (error) {
      this.#jobs.settle(job, error);
    }
  }

  /**
   * Waits for a job, or until the read is given up. The job ends with its last reader when it is not wanted otherwise.
   * @param again  another image's job for the span has failed for this reader already
   */
  async #join(
    job: SpanJob,
    provider: LayerProvider,
    interrupt: Interrupt,
    onSource: OnSource | undefined,
    again: boolean,
  ): Promise<SpanResult> {
    const { activity } = this.#context;
    activity.beginWait();
    const rival = job.provider === provider ? null : this.#rivalInTime(job, provider, again);
    try {
      const result = await interrupt.race(job.promise);
      noteUse(this.shared, job.span);
      onSource?.(job.source);
      return result;
    } catch (error) {
      // Only other images' sources failed, which is no answer to a reader of this one.
      if (interrupt.raised || job.hasAsked(provider) || !this.#jobs.providers.has(provider)) throw error;
    } finally {
      if (rival !== null) clearInterval(rival);
      activity.endWait();
      job.waiters--;
      this.#jobs.reconsider(job);
    }
    return this.#await(provider, job.span, interrupt, onSource, true);
  }

  /** Fetches the span from the reader's own source, too, if it has not come in time. @param now  without waiting for it */
  #rivalInTime(job: SpanJob, provider: LayerProvider, now: boolean): NodeJS.Timeout | null {
    if (now && this.#rival(job, provider)) return null;
    // A job whose bytes are just being checked may have to ask again.
    const timer = setInterval(() => {
      if (this.#rival(job, provider)) clearInterval(timer);
    }, RIVAL_MS);
    return timer;
  }
}

type OnSource = NonNullable<ReadOptions['onSource']>;

/** Copies the part that a span in memory has of a read. False: the span is in the file. */
function copySpan(out: Uint8Array, offset: number, spanStart: number, bytes: SpanResult): boolean {
  if (bytes === null) return false;
  const start = Math.max(offset, spanStart);
  const end = Math.min(offset + out.length, spanStart + bytes.length);
  out.set(bytes.subarray(start - spanStart, end - spanStart), start - offset);
  return true;
}

/** The end of a read by its signal. One listener, however many spans the read waits for. */
class Interrupt {
  readonly #signal: AbortSignal | undefined;
  readonly #gone: Promise<never> | null = null;
  #onAbort = (): void => {};

  constructor(signal: AbortSignal | undefined, what: string) {
    this.#signal = signal;
    if (signal === undefined) return;
    this.#gone = new Promise((_, reject) => {
      this.#onAbort = () => reject(aborted(what, signal.reason));
    });
    this.#gone.catch(() => {});
    signal.addEventListener('abort', this.#onAbort, { once: true });
  }

  get raised(): boolean {
    return this.#signal?.aborted === true;
  }

  race<T>(promise: Promise<T>): Promise<T> {
    return this.#gone === null ? promise : Promise.race([promise, this.#gone]);
  }

  done(): void {
    this.#signal?.removeEventListener('abort', this.#onAbort);
  }
}
