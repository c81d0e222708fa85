import type { LayerMeta, SpanTable } from '../archive/index.js';
import { ClipError, toHex } from '../bytes/index.js';
import type { CachedLayer } from '../cache/index.js';
import { noteUse, type SharedLayer, spanAt } from '../spans/index.js';
import { Readahead } from './ahead/sequential.js';
import { UnreadAccount } from './ahead/unread.js';
import type { QueuedLayer } from './fetch-queue.js';
import { Priority, type Target, type TaskResult } from './inflate-tasks.js';
import { abandoned, aborted, SpanJob, type SpanResult } from './job.js';
import type { LayerContext } from './layer-set.js';
import { SpanFetcher } from './span-fetcher.js';
import { SpanFile } from './span-file.js';
import { StreamFetcher } from './stream-fetcher.js';
import type { LayerProvider, ReadOptions } from './types.js';

/** A wrong span is fetched again, once per source, before its readers get an error (docs/architecture.md, "Invariant 1"). */
const MAX_MISMATCHES = 2;
/** A span that vanishes between fill and copy (a disk that cannot read back what it took) is filled again so many times. */
const MAX_READ_ATTEMPTS = 3;

/** The uncompressed bytes of one layer, fetched span by span as they are asked for. Made by LayerSet.open. */
export class LazyLayer implements QueuedLayer {
  readonly #context: LayerContext;
  readonly #cached: CachedLayer;
  readonly #jobs = new Map<number, SpanJob>();
  readonly #providers: LayerProvider[] = [];
  readonly #fetcher: SpanFetcher;
  readonly #stream: StreamFetcher | null;
  readonly #readahead: Readahead;
  readonly #file: SpanFile;
  readonly #unread: UnreadAccount;
  /** What still uses the cache file: it must not be closed under them. */
  readonly #busy = new Set<Promise<unknown>>();

  constructor(
    readonly meta: LayerMeta,
    readonly table: SpanTable,
    cached: CachedLayer,
    context: LayerContext,
  ) {
    this.#context = context;
    this.#cached = cached;
    this.#fetcher = new SpanFetcher(this, context);
    this.#stream = table.kind === 'zstd-stream' ? new StreamFetcher(this, context) : null;
    this.#readahead = new Readahead(this);
    this.#file = new SpanFile(cached, context.cache, context.memory);
    this.#unread = new UnreadAccount(context.counters);
  }

  /** What FUSE workers need to answer hits themselves. */
  get shared(): SharedLayer {
    return this.#cached.shared;
  }

  get cached(): CachedLayer {
    return this.#cached;
  }

  /** Length of the uncompressed layer. */
  get size(): number {
    return this.table.layerOffset[this.table.count]!;
  }

  get readahead(): Readahead {
    return this.#readahead;
  }

  addProvider(provider: LayerProvider): void {
    this.#providers.push(provider);
  }

  /** True when no provider is left. */
  removeProvider(provider: LayerProvider): boolean {
    this.#providers.splice(this.#providers.indexOf(provider), 1);
    return this.#providers.length === 0;
  }

  /**
   * Bytes [offset, offset + length) of the uncompressed layer. What is missing is fetched, verified and inflated first.
   * @throws RangeError outside the layer; ClipError DIGEST_MISMATCH, NETWORK, UNAUTHORIZED, …; ABORTED by the signal
   */
  async read(offset: number, length: number, options: ReadOptions = {}): Promise<Uint8Array> {
    if (!(offset >= 0 && length >= 0 && offset + length <= this.size)) {
      throw new RangeError(`bytes ${offset} to ${offset + length} of a layer of ${this.size}`);
    }
    if (length === 0) return new Uint8Array(0);
    if (options.signal?.aborted) throw aborted(this.meta.digest, options.signal.reason);
    const first = spanAt(this.table.layerOffset, offset);
    const last = spanAt(this.table.layerOffset, offset + length - 1);
    // Held from here on: what was waited for is not evicted before it is copied.
    for (let span = first; span <= last; span++) this.#cached.hold(span);
    try {
      for (let attempt = 1; ; attempt++) {
        const waits: Promise<SpanResult>[] = [];
        for (let span = first; span <= last; span++) waits.push(this.#await(span, options.signal));
        if (attempt === 1 && options.file !== undefined && this.#context.readahead) {
          this.#readahead.onRead(options.file, offset, first, last);
        }
        const results = await Promise.all(waits);
        const out = Buffer.allocUnsafeSlow(length);
        if (this.#file.copyOut(out, offset, first, results)) return out;
        if (attempt === MAX_READ_ATTEMPTS) {
          throw new ClipError('SYSTEM', `layer ${this.meta.digest}: its cache file cannot be read back`, {
            hint: 'look for disk errors in the kernel log',
          });
        }
      }
    } finally {
      for (let span = first; span <= last; span++) this.#cached.unhold(span);
    }
  }

  /** True when a read of the span would not have to wait. */
  has(span: number): boolean {
    return this.#cached.present(span) || this.#context.memory.has(this.shared.id, span);
  }

  /**
   * Asks for a span without waiting; null when it is there already. The promise settles when the span is there or was given
   * up. `cancelAhead` takes the wish back.
   */
  ahead(span: number, priority: Exclude<Priority, 0>): Promise<SpanResult> | null {
    if (this.has(span)) return null;
    const job = this.#jobs.get(span) ?? this.#begin(span, priority);
    job.background = true;
    this.#raise(job, priority);
    return job.promise;
  }

  /** Nobody wants the span ahead any more; readers that wait for it still get it. */
  cancelAhead(span: number): void {
    const job = this.#jobs.get(span);
    if (job === undefined) return;
    job.background = false;
    this.#reconsider(job);
  }

  /** Fails what is under way. The set calls it after the last release. */
  shutDown(): void {
    for (const job of [...this.#jobs.values()]) {
      job.waiters = 0;
      job.background = false;
      this.#reconsider(job);
    }
    this.#stream?.close();
    this.settleUnread(true);
  }

  /** Brings the accounts of what was fetched ahead up to date. */
  settleUnread(final = false): void {
    const { memory } = this.#context;
    this.#unread.settle(
      (span) => this.shared.lastUse[span]! > 0,
      (span) => final || (!this.#jobs.has(span) && !this.#cached.present(span) && !memory.has(this.shared.id, span)),
    );
  }

  /** Resolves when no thread uses the cache file for this layer's sake any more. After shutDown. */
  async drained(): Promise<void> {
    while (this.#busy.size > 0) await Promise.allSettled(this.#busy);
  }

  // ---- for the queue and the stream fetcher

  job(span: number): SpanJob | undefined {
    return this.#jobs.get(span);
  }

  get count(): number {
    return this.table.count;
  }

  byteStart(span: number): number {
    return Math.floor(this.table.bitOffset[span]! / 8);
  }

  byteEnd(span: number): number {
    return Math.ceil(this.table.bitOffset[span + 1]! / 8);
  }

  compressedBytes(first: number, end: number): number {
    return this.byteEnd(end - 1) - this.byteStart(first);
  }

  get providers(): number {
    return this.#providers.length;
  }

  provider(index: number): LayerProvider | undefined {
    return this.#providers[index % Math.max(1, this.#providers.length)];
  }

  /** For errors. */
  name(span: number): string {
    return `layer ${this.meta.digest}, span ${span} (bytes ${this.byteStart(span)} to ${this.byteEnd(span)})`;
  }

  /** A copy: a view in a message to a worker would take the whole table along. */
  sha256(span: number): Uint8Array {
    return this.table.sha256.slice(32 * span, 32 * span + 32);
  }

  fetch(jobs: readonly SpanJob[]): Promise<void> {
    return this.track(this.#fetcher.fetch(jobs));
  }

  /** Neighbours share their boundary byte; it is counted once. */
  accountFetch(jobs: readonly SpanJob[]): void {
    let from = this.byteStart(jobs[0]!.span);
    for (const job of jobs) {
      const end = this.byteEnd(job.span);
      this.#context.counters.bytes[job.fetchedAs].add(end - from);
      this.#context.counters.spansFetched.add();
      this.#unread.add(job.span, end - from, job.fetchedAs);
      from = end;
    }
  }

  /** As accountFetch, of spans that are fetched together for one reason. */
  accountSpans(first: number, end: number, fetchedAs: Priority): void {
    const { counters } = this.#context;
    counters.bytes[fetchedAs].add(this.compressedBytes(first, end));
    counters.spansFetched.add(end - first);
    for (let span = first; span < end; span++) this.#unread.add(span, this.compressedBytes(span, span + 1), fetchedAs);
  }

  /** Where a span's bytes are to go; fd −1 when they are not to be cached. */
  target(span: number, priority: Priority): Target {
    const { cache } = this.#context;
    const right = priority <= Priority.readahead ? 'anything' : 'unmounted';
    const keep = !this.#file.avoidsDisk(span) && cache.reserve(this.#cached, span, right);
    const tick = cache.tick();
    // Before it is published: a worker may stamp a use the moment it is.
    this.shared.lastUse[span] = priority === Priority.demand ? tick : -tick;
    return {
      fd: keep ? this.shared.fd : -1,
      position: this.table.layerOffset[span]!,
      span,
      generations: this.shared.generations,
    };
  }

  /** A span is there: in its file or in memory. `job` is null when it was only decoded on the way to another. */
  keep(
    job: SpanJob | null,
    span: number,
    target: Target | null,
    result: Extract<TaskResult, { status: 'stored' | 'bytes' }>,
  ): void {
    const { cache, memory } = this.#context;
    let outcome: SpanResult = null;
    if (result.status === 'bytes') {
      if (result.writeError !== undefined) {
        cache.writeFailed(this.#cached, span, result.writeError);
        // Memory is for what somebody reads soon: a fill asks again when the disk has recovered.
        if (job !== null && job.waiters === 0 && job.priority === Priority.fill) {
          this.#context.counters.skippedBackground.add();
          this.settle(job, abandoned(this.name(span)));
          return;
        }
      }
      memory.put(this.shared.id, span, result.bytes);
      outcome = result.bytes;
    } else if (target !== null) cache.writeSucceeded();
    if (job !== null) this.settle(job, outcome);
  }

  /** Ends a job, or tries it again, according to what became of its task. */
  finish(job: SpanJob, target: Target | null, result: TaskResult): void {
    const { counters } = this.#context;
    if (result.status === 'stored' || result.status === 'bytes') {
      this.keep(job, job.span, target, result);
    } else if (result.status === 'digest-mismatch') {
      if (job.content !== 'used') counters.digestMismatches.add();
      this.#mismatch(job, 'its compressed bytes have another SHA-256');
    } else if (result.status === 'bad-content') {
      counters.badContent.add();
      // The bytes are those that the archive names: the content cache gave the right ones.
      if (job.content === 'used') job.content = 'untried';
      this.#mismatch(job, result.detail);
    } else if (result.status === 'bad-state') {
      counters.badContent.add();
      this.settle(
        job,
        new ClipError('BAD_FORMAT', `${this.name(job.span)}: ${result.detail}`, {
          hint: 'the archive is damaged or forged: make it again with clipctl index',
        }),
      );
    } else {
      this.settle(job, new ClipError('SYSTEM', `${this.name(job.span)}: ${result.detail ?? result.status}`));
    }
  }

  /** Ends a job: with a result, or an error for its readers. */
  settle(job: SpanJob, outcome: SpanResult | Error | unknown): void {
    this.#jobs.delete(job.span);
    this.#cached.unhold(job.span);
    if (outcome === null || outcome instanceof Uint8Array) job.resolve(outcome);
    else {
      const { counters, log } = this.#context;
      if (outcome instanceof ClipError && outcome.code === 'ABORTED') counters.abortedSpans.add();
      else {
        counters.failedSpans.add();
        log.error({ layer: this.meta.digest, span: job.span, error: String(outcome) }, 'a span cannot be had');
      }
      job.reject(outcome);
    }
    this.#context.queue.wake();
  }

  /** Verified compressed bytes from the source are for other machines too. */
  share(span: number, compressed: Uint8Array): void {
    const { content } = this.#context;
    if (content === null) return;
    const hash = toHex(this.sha256(span));
    if (content.wants(hash, compressed.length)) content.put(hash, Uint8Array.from(compressed), this.meta.digest);
  }

  /** Keeps the cache file open for work that uses it. */
  track<T>(work: Promise<T>): Promise<T> {
    this.#busy.add(work);
    const done = (): boolean => this.#busy.delete(work);
    work.then(done, done);
    return work;
  }

  // ---- inside

  #await(span: number, signal: AbortSignal | undefined): Promise<SpanResult> {
    const { counters, memory } = this.#context;
    if (this.#cached.present(span)) {
      counters.spanHits.add();
      noteUse(this.shared, span);
      return Promise.resolve(null);
    }
    const bytes = memory.get(this.shared.id, span);
    if (bytes !== undefined) {
      counters.spanHits.add();
      noteUse(this.shared, span);
      void this.track(this.#file.promote(span, bytes));
      return Promise.resolve(bytes);
    }
    counters.spanMisses.add();
    const job = this.#jobs.get(span) ?? this.#begin(span, Priority.demand);
    job.waiters++;
    this.#raise(job, Priority.demand);
    return this.#join(job, signal);
  }

  /** Waits for a job; the signal ends the waiting, and the job too when nobody else wants it. */
  async #join(job: SpanJob, signal: AbortSignal | undefined): Promise<SpanResult> {
    const { activity } = this.#context;
    activity.beginWait();
    let onAbort: (() => void) | undefined;
    const gone = new Promise<never>((_, reject) => {
      onAbort = () => reject(aborted(this.name(job.span), signal?.reason));
      signal?.addEventListener('abort', onAbort, { once: true });
    });
    try {
      const result = await (signal === undefined ? job.promise : Promise.race([job.promise, gone]));
      noteUse(this.shared, job.span);
      return result;
    } finally {
      if (onAbort !== undefined) signal?.removeEventListener('abort', onAbort);
      activity.endWait();
      job.waiters--;
      this.#reconsider(job);
    }
  }

  #begin(span: number, priority: Priority): SpanJob {
    const job = new SpanJob(span, priority);
    this.#jobs.set(span, job);
    this.#cached.hold(span);
    if (this.#cached.unverified(span)) void this.track(this.#check(job));
    else this.#enqueue(job);
    return job;
  }

  #raise(job: SpanJob, priority: Priority): void {
    if (priority >= job.priority) return;
    if (job.task !== null) this.#context.pool.raise(job.task, priority);
    this.#context.queue.raise(job, priority);
  }

  #enqueue(job: SpanJob): void {
    if (this.#stream === null) this.#context.queue.add(this, job);
    else this.#stream.add(job);
  }

  /** First use after a restart: what lies in the file may be the span. */
  async #check(job: SpanJob): Promise<void> {
    const { pool, counters, cache, log } = this.#context;
    const { span } = job;
    job.phase = 'inflating';
    const target: Target = {
      fd: this.shared.fd,
      position: this.table.layerOffset[span]!,
      span,
      generations: this.shared.generations,
    };
    this.shared.lastUse[span] = job.priority === Priority.demand ? cache.tick() : -cache.tick();
    try {
      const outLength = this.#cached.length(span);
      const result = await pool.run({ type: 'check', outLength, crc32: this.table.crc32[span]!, target }, job.priority);
      if (result.status === 'stored') {
        counters.spansChecked.add();
        this.#cached.occupy(span, 2);
        this.settle(job, null);
        return;
      }
      counters.spansDamaged.add();
      if (result.status === 'absent' && result.detail !== undefined) {
        log.error({ layer: this.meta.digest, span, error: result.detail }, 'a cache file cannot be read');
      }
      if (job.wanted) this.#enqueue(job);
      else this.settle(job, abandoned(this.name(span)));
    } catch (error) {
      this.settle(job, error);
    }
  }

  #mismatch(job: SpanJob, detail: string): void {
    const { log, queue, content } = this.#context;
    const { digest } = this.meta;
    if (job.content === 'used') {
      content?.poisoned(toHex(this.sha256(job.span)));
      job.content = 'poisoned';
      queue.add(this, job);
      return;
    }
    job.mismatches++;
    log.error(
      { layer: digest, span: job.span, detail, attempt: job.mismatches },
      'a span is not what the archive says',
    );
    if (job.mismatches < Math.max(MAX_MISMATCHES, this.#providers.length + 1) && job.wanted) {
      job.provider++;
      if (this.#stream === null) queue.add(this, job);
      else this.#stream.add(job);
      return;
    }
    this.settle(
      job,
      new ClipError('DIGEST_MISMATCH', `${this.name(job.span)}: ${detail}`, {
        hint: 'the registry serves other bytes than were indexed: check it, or index the image again',
      }),
    );
  }

  #reconsider(job: SpanJob): void {
    if (job.wanted || this.#jobs.get(job.span) !== job) return;
    if (job.carrier !== null) job.carrier.reconsider();
    else if (job.phase === 'queued') {
      this.#context.queue.remove(job);
      this.settle(job, abandoned(this.name(job.span)));
    }
    // Being inflated: it is nearly there, and the next reader will want it.
  }
}
