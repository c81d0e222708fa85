import type { SpanIndex } from '../bytes/index.js';
import { ClipError, toHex } from '../bytes/index.js';
import { type CachedLayer, Occupied } from '../cache/index.js';
import type { Source } from '../metrics/index.js';
import { countWrongAnswer } from '../oci/index.js';
import { BlockSums, blocksOf, type LayerSpans, type PartSum, publish, type SpanTarget } from '../spans/index.js';
import { UnreadAccount } from './ahead/unread.js';
import { BlockContent } from './block-content.js';
import type { LayerContext } from './context.js';
import { Priority, type TaskResult } from './inflate-tasks.js';
import { abandoned, SpanJob, type SpanResult } from './job.js';
import { Providers } from './providers.js';
import { SpanFile } from './span-file.js';
import type { LayerProvider } from './types.js';

/**
 * Times that a span may be wrong before its readers get an error, or once per source if there are more. On a link that flips bits in
 * 3 % of all answers two in a row fail one read in a thousand, four none in a million (npm run torture -- registry).
 */
const MAX_MISMATCHES = 4;

const OTHER_BYTES = 'the registry serves other bytes than were indexed: check it, or index the image again';
const FORGED_ARCHIVE = 'the archive is damaged or forged: make it again with clipctl index';
const DAMAGED_BLOCKS = 'the archive is damaged: take it from its source again';

/** A span, and what it was asked for. */
type FetchedSpan = Pick<SpanJob, 'span' | 'fetchedAs'>;

/**
 * The spans of one layer that are being fetched, and how each fetch ends. A fetcher asks for a span's target, hands the span's bytes to a worker,
 * and comes back with the result: `finish`.
 */
export class SpanJobs {
  readonly providers = new Providers();
  /** Fetched ahead and not read yet. */
  readonly unread: UnreadAccount;
  readonly file: SpanFile;
  readonly #context: LayerContext;
  readonly #jobs = new Map<number, SpanJob>();
  /** Of a layer of data blocks: its files in the content cache. */
  readonly content: BlockContent | null;
  /** Of a layer of data blocks. */
  readonly #sums: BlockSums | null;
  /** What still uses the cache file, which must not be closed under it. */
  readonly #busy = new Set<Promise<unknown>>();

  constructor(
    readonly spans: LayerSpans,
    readonly cached: CachedLayer,
    context: LayerContext,
  ) {
    this.#context = context;
    this.unread = new UnreadAccount(context.counters);
    this.file = new SpanFile(cached, context.cache, context.memory);
    this.#sums = spans.table.blocks === undefined ? null : new BlockSums(spans.table);
    this.content = this.#sums === null ? null : new BlockContent(spans, cached, this.#sums, context);
  }

  get(span: SpanIndex): SpanJob | undefined {
    return this.#jobs.get(span);
  }

  /** With their rivals. */
  all(): SpanJob[] {
    return [...this.#jobs.values()].flatMap((job) => [job, ...job.rivals.values()]);
  }

  /** The span must have no job. It is held in the cache until the job is settled. */
  begin(span: SpanIndex, priority: Priority, provider: LayerProvider): SpanJob {
    const job = new SpanJob(span, priority, provider);
    this.#jobs.set(span, job);
    this.cached.hold(span);
    return job;
  }

  /**
   * A second fetch of a span, from the source of a reader that has waited for another image's source. The first that
   * succeeds ends both. Null: there is one already, or none is needed any more.
   */
  beginRival(job: SpanJob, provider: LayerProvider): SpanJob | null {
    if (job.answered || job.phase === 'inflating' || job.provider === provider || job.rivals.has(provider)) return null;
    const rival = new SpanJob(job.span, Priority.demand, provider, job);
    rival.background = true;
    job.rivals.set(provider, rival);
    job.noteAsked(provider);
    this.cached.hold(job.span);
    this.#context.counters.rivals.add();
    return rival;
  }

  /** To be called when a job has lost a reader or its background wish. */
  reconsider(job: SpanJob): void {
    if (job.wanted) return;
    for (const rival of [...job.rivals.values()]) {
      rival.background = false;
      this.reconsider(rival);
    }
    // One that is being inflated goes on: it is nearly there, and the next reader will want it.
    job.carrier?.reconsider(job);
  }

  /** Where a span's bytes are to go. fd −1: they are not to be cached. */
  target(span: SpanIndex, priority: Priority): SpanTarget {
    const { cache } = this.#context;
    const { shared } = this.cached;
    const right = priority <= Priority.readahead ? 'anything' : 'unmounted';
    const hole = this.cached.isHole(span);
    const keep = !this.file.avoidsDisk(span) && cache.reserve(this.cached, span, right);
    // Before the span is published: a worker may stamp a use the moment it is.
    this.stamp(span, priority);
    return {
      fd: keep ? shared.fd : -1,
      position: this.spans.start(span),
      span,
      generations: shared.generations,
      hole,
    };
  }

  /** Notes when a span comes into the cache: as a use, or as fetched ahead of one. */
  stamp(span: SpanIndex, priority: Priority): void {
    const tick = this.#context.cache.tick();
    this.cached.shared.lastUse[span] = priority === Priority.demand ? tick : -tick;
  }

  /**
   * Ends a job according to the result of its task. True: the bytes were wrong and are to be fetched again, from the
   * provider that the job names now.
   */
  finish(job: SpanJob, target: SpanTarget | null, result: TaskResult): boolean {
    const { counters } = this.#context;
    switch (result.status) {
      case 'stored':
      case 'bytes':
        if (this.isDamaged(job, result.part)) return false;
        if (result.status === 'stored' && result.part !== undefined && target !== null) publish(target);
        this.keep(job, job.span, target, result);
        return false;
      case 'digest-mismatch':
        if (job.content !== 'used') counters.digestMismatches.add();
        return this.#mismatch(job, 'its compressed bytes have another SHA-256', OTHER_BYTES);
      case 'bad-content':
        counters.badContent.add();
        // The bytes are those that the archive names: the content cache gave the right ones.
        if (job.content === 'used') job.content = 'untried';
        // Blocks are checked by checksums of their own. All other bytes have the digest in the archive, which is at fault then.
        return this.#mismatch(job, result.detail, this.#sums === null ? FORGED_ARCHIVE : DAMAGED_BLOCKS);
      case 'bad-state':
        counters.badContent.add();
        this.settle(
          job,
          new ClipError('BAD_FORMAT', `${this.spans.name(job.span)}: ${result.detail}`, {
            hint: FORGED_ARCHIVE,
          }),
        );
        return false;
      default:
        this.settle(job, new ClipError('SYSTEM', `${this.spans.name(job.span)}: ${result.detail ?? result.status}`));
        return false;
    }
  }

  /** A span is there, in its file or in memory. `job` is null when it was only decoded on the way to another. */
  keep(
    job: SpanJob | null,
    span: SpanIndex,
    target: SpanTarget | null,
    result: Extract<TaskResult, { status: 'stored' | 'bytes' }>,
  ): void {
    const { cache, memory, counters } = this.#context;
    if (result.status === 'stored') {
      if (target !== null) cache.writeSucceeded();
      if (result.zeros === true) this.cached.occupy(span, Occupied.zeros);
      if (job !== null) this.settle(job, null);
      return;
    }
    if (result.writeError !== undefined) {
      cache.writeFailed(this.cached, span, result.writeError);
      // Memory is for spans that are read soon. A fill asks again when the disk has recovered.
      if (job !== null && job.waiters === 0 && job.priority === Priority.fill) {
        counters.skippedBackground.add();
        this.abandon(job);
        return;
      }
    }
    memory.put(this.cached.shared.id, span, result.bytes);
    if (job !== null) this.settle(job, result.bytes);
  }

  /** True: ask again. */
  #mismatch(job: SpanJob, detail: string, hint: string): boolean {
    const { log, content } = this.#context;
    const { digest } = this.spans;
    if (job.content === 'used') {
      content?.poisoned(toHex(this.spans.sha256(job.span)));
      job.content = 'poisoned';
      return true;
    }
    job.mismatches++;
    if (job.host !== null) countWrongAnswer(job.host, 'bytes');
    log.error(
      { layer: digest, span: job.span, detail, attempt: job.mismatches, ...(job.host !== null && { host: job.host }) },
      'a span is not what the archive says',
    );
    const again = job.rivalOf === null && job.mismatches < Math.max(MAX_MISMATCHES, this.providers.count + 1);
    if (again && job.wanted) {
      job.provider = this.providers.next(job.provider);
      return true;
    }
    this.settle(job, new ClipError('DIGEST_MISMATCH', `${this.spans.name(job.span)}: ${detail}`, { hint }));
    return false;
  }

  /** Ends a job that is not wanted any more. */
  abandon(job: SpanJob): void {
    this.settle(job, abandoned(this.spans.name(job.span)));
  }

  /** Ends a job, with a result or an error for its readers. Nothing of it may be under way any more. */
  settle(job: SpanJob, outcome: SpanResult | unknown): void {
    this.cached.unhold(job.span);
    this.#context.queue.ended(job);
    const first = job.rivalOf ?? job;
    for (const [provider, rival] of first.rivals) if (rival === job) first.rivals.delete(provider);
    if (first.answered) return;
    if (outcome === null || outcome instanceof Uint8Array) this.#resolve(first, outcome);
    else this.#fail(job, first, outcome);
  }

  #resolve(first: SpanJob, outcome: SpanResult): void {
    this.#offerFiles(first.span);
    this.#close(first);
    first.resolve(outcome);
    for (const other of [first, ...first.rivals.values()]) other.carrier?.reconsider(other);
  }

  #fail(job: SpanJob, first: SpanJob, error: unknown): void {
    if (job === first) first.failure = error;
    // The readers hear of it when no rival is left that may succeed.
    if (first.failure === null || first.rivals.size > 0) return;
    this.#close(first);
    const { counters, log } = this.#context;
    const { failure } = first;
    if (failure instanceof ClipError && failure.code === 'ABORTED') counters.abortedSpans.add();
    else {
      counters.failedSpans.add();
      log.error({ layer: this.spans.digest, span: first.span, error: String(failure) }, 'a span cannot be had');
    }
    first.reject(failure);
  }

  /** From now on the span's next reader begins a new job. */
  #close(job: SpanJob): void {
    if (this.#jobs.get(job.span) === job) this.#jobs.delete(job.span);
  }

  /**
   * Takes note of a part of a long data block. The block is checked when its last part has come: if it is damaged, the job ends so,
   * and none of its parts is served from then on (docs/legacy.md, "What is checked").
   */
  isDamaged(job: SpanJob, part: PartSum | undefined): boolean {
    if (part === undefined || this.#sums === null) return false;
    const wrong = this.#sums.add(job.span, part);
    if (wrong === null) return this.refuseDamaged(job);
    const { counters, cache, memory } = this.#context;
    counters.badContent.add();
    for (let span = wrong.first; span < wrong.end; span++) {
      this.cached.hide(span);
      memory.delete(this.cached.shared.id, span);
    }
    this.refuseDamaged(job);
    for (let span = wrong.first; span < wrong.end; span++) cache.discard(this.cached, span);
    return true;
  }

  /** Offers the files of a span that is right to the content cache: a long one when all of it is. */
  #offerFiles(span: SpanIndex): void {
    if (this.content === null || this.#context.content === null) return;
    const { first, end } = blocksOf(this.spans.table, span);
    for (let block = first; block < end; block++) {
      const of = this.#sums?.spansOf(block, span) ?? { first: span, end: span + 1 };
      if (of.end - of.first > 1 && this.#sums?.isRight(span) !== true) continue;
      const offered = this.content.offer(block, of.first, of.end);
      if (offered !== null) void this.track(offered);
    }
  }

  /** Ends the job of a span whose block was found to be damaged. */
  refuseDamaged(job: SpanJob): boolean {
    if (this.#sums?.isWrong(job.span) !== true) return false;
    this.cached.hide(job.span);
    this.settle(
      job,
      new ClipError('DIGEST_MISMATCH', `${this.spans.name(job.span)}: the CRC-64 of its block differs`, {
        hint: DAMAGED_BLOCKS,
      }),
    );
    return true;
  }

  /** Offers verified compressed bytes that came from the registry to the content cache. */
  share(span: SpanIndex, compressed: Uint8Array): void {
    const { content } = this.#context;
    if (content === null || this.#sums !== null) return;
    const hash = toHex(this.spans.sha256(span));
    if (content.wants(hash, compressed.length)) content.put(hash, Uint8Array.from(compressed), this.spans.digest);
  }

  /** Counts a request for a stretch of spans, and its bytes, each under its own priority. Neighbours share a byte, which is counted once. */
  accountFetch(fetched: readonly FetchedSpan[]): void {
    this.accountRequest();
    let from = this.spans.byteStart(fetched[0]!.span);
    for (const one of fetched) {
      const end = this.spans.byteEnd(one.span);
      this.accountSpan(one, end - from);
      from = end;
    }
  }

  accountRequest(): void {
    this.#context.counters.requests.add();
  }

  accountSpan({ span, fetchedAs }: FetchedSpan, bytes: number): void {
    const { counters } = this.#context;
    counters.bytes[fetchedAs].add(bytes);
    counters.spansFetched.add();
    this.unread.add(span, bytes, fetchedAs);
  }

  /** Spans have come, from a neighbourhood without gaps that matter. `started` is of performance.now(). */
  fetched(jobs: readonly FetchedSpan[], source: Source, bytes: number, started: number): void {
    const ended = performance.now();
    this.#context.counters.came(source, bytes, ended - started);
    this.#tell(jobs, source, bytes, started, ended);
  }

  /** The same of several neighbourhoods, by one request. */
  fetchedRuns(runs: readonly (readonly FetchedSpan[])[], source: Source, started: number): void {
    if (runs.length === 0) return;
    const ended = performance.now();
    let sum = 0;
    for (const run of runs) {
      const bytes = this.spans.compressedBytes(run[0]!.span, run.at(-1)!.span + 1);
      sum += bytes;
      this.#tell(run, source, bytes, started, ended);
    }
    this.#context.counters.came(source, sum, ended - started);
  }

  #tell(jobs: readonly FetchedSpan[], source: Source, bytes: number, started: number, ended: number): void {
    this.#context.onFetched({
      layer: this.cached.shared.id,
      first: jobs[0]!.span,
      end: jobs.at(-1)!.span + 1,
      bytes,
      reason: Math.min(...jobs.map(({ fetchedAs }) => fetchedAs)) as Priority,
      source,
      started,
      ended,
    });
  }

  /** Keeps the cache file open for work that uses it. */
  track<T>(work: Promise<T>): Promise<T> {
    this.#busy.add(work);
    const done = (): boolean => this.#busy.delete(work);
    work.then(done, done);
    return work;
  }

  /** Resolves when no thread uses the cache file for this layer's sake any more. */
  async drained(): Promise<void> {
    await this.content?.drained();
    while (this.#busy.size > 0) await Promise.allSettled(this.#busy);
  }
}
