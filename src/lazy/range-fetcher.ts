import type { LayerKind } from '../archive/index.js';
import type { SpanIndex } from '../bytes/index.js';
import { FormatError, toHex } from '../bytes/index.js';
import { NO_STATE } from '../gzip/index.js';
import { untoldRefusal } from '../oci/index.js';
import type { LayerSpans } from '../spans/index.js';
import { joinGap, partGap } from './ahead/policy.js';
import type { LayerContext } from './context.js';
import { goesInParts, MAX_RANGES, neighbours, type QueuedLayer } from './fetch-queue.js';
import { type InflateTask, Priority, type TaskResult } from './inflate-tasks.js';
import type { SpanFetcher, SpanJob } from './job.js';
import { RangeRequest } from './range-request.js';
import type { SpanJobs } from './span-jobs.js';
import type { LayerProvider } from './types.js';

/**
 * Sources asked for a span before its readers get an error. Each has retried by itself, and most often several archives of a
 * layer lead to the same registry: more would only make readers wait.
 */
const MAX_SOURCES = 2;

/** Spans that stand on their own: from the content cache or by Range requests to the workers that check and inflate them. */
export class RangeFetcher implements SpanFetcher, QueuedLayer {
  readonly #jobs: SpanJobs;
  readonly #context: LayerContext;

  constructor(
    jobs: SpanJobs,
    context: LayerContext,
    readonly kind: Exclude<LayerKind, 'zstd-stream'>,
  ) {
    this.#jobs = jobs;
    this.#context = context;
  }

  get spans(): LayerSpans {
    return this.#jobs.spans;
  }

  add(job: SpanJob): void {
    this.#context.queue.add(this, job);
  }

  providerLeft(): void {}

  close(): void {
    // Nothing is held between fetches.
  }

  job(span: SpanIndex): SpanJob | undefined {
    return this.#jobs.get(span);
  }

  abandon(job: SpanJob): void {
    this.#jobs.abandon(job);
  }

  /** Resolves, never rejects, when the requests are over. The jobs end when their spans are stored. */
  fetch(jobs: readonly SpanJob[]): Promise<void> {
    return this.#jobs.track(this.#fetch(jobs));
  }

  async #fetch(jobs: readonly SpanJob[]): Promise<void> {
    const missing = await this.#fromContentCache(jobs);
    const parts = missing.length > 1 && missing.every((job) => goesInParts(job, job.fetchedAs, this.spans));
    const link = this.#context.links.of(jobs[0]!.provider.source);
    if (parts) {
      // The link may have become another one since the queue joined them.
      const runs = neighbours(missing, this.spans, partGap(link));
      const requests = Array.from({ length: Math.ceil(runs.length / MAX_RANGES) }, (_, i) =>
        this.#request(runs.slice(i * MAX_RANGES, (i + 1) * MAX_RANGES)),
      );
      await Promise.all(requests);
      return;
    }
    const gap = joinGap(link);
    await Promise.all(neighbours(missing, this.spans, gap).map((run) => this.#request([run])));
  }

  /** Starts what the content cache has on its way; returns the rest, as far as it is still wanted. */
  async #fromContentCache(jobs: readonly SpanJob[]): Promise<readonly SpanJob[]> {
    const { content } = this.#context;
    if (content === null) return jobs;
    // The lookups of one request wait for each other: a reader that comes to wait for one of them hurries all.
    const hurries: ((() => void) | undefined)[] = [];
    const hurryAll = (): void => {
      for (const hurry of hurries) hurry?.();
    };
    const waiting = jobs.some(({ priority }) => priority === Priority.demand);
    const lookUp = async (job: SpanJob, i: number): Promise<boolean> => {
      if (job.content === 'poisoned') return false;
      const asked = performance.now();
      const { spans } = this;
      const length = spans.compressedBytes(job.span, job.span + 1);
      const lookup = {
        waiting,
        onUrgent: (hurry: () => void) => {
          hurries[i] = hurry;
          job.onUrgent = hurryAll;
        },
      };
      const files = this.#jobs.content;
      const { buffers } = this.#context;
      let buffer: SharedArrayBuffer | null = null;
      const allocate = (size: number): Uint8Array => {
        buffer = buffers.acquire(size);
        return new Uint8Array(buffer, 0, size);
      };
      const bytes =
        files === null
          ? await content.get(toHex(spans.sha256(job.span)), length, spans.digest, lookup, allocate)
          : await files.lookUp(job.span, job.provider, lookup);
      // What was allocated is not given back: bytes of an answer that was given up may still come into it.
      if (bytes === null) return false;
      job.content = 'used';
      job.source = 'content_cache';
      this.#jobs.fetched([job], 'content_cache', length, asked);
      let compressed = bytes;
      if (bytes.buffer !== buffer) {
        compressed = allocate(length);
        compressed.set(bytes);
      }
      const held = compressed.buffer as SharedArrayBuffer;
      void this.#jobs.track(this.#inflate(job, compressed)).finally(() => buffers.release(held));
      return true;
    };
    const found = await Promise.all(jobs.map(lookUp));
    return jobs.filter((job, i) => {
      if (found[i]) return false;
      if (job.wanted) return true;
      this.#jobs.abandon(job);
      return false;
    });
  }

  async #request(runs: readonly (readonly SpanJob[])[]): Promise<void> {
    const { buffers, activity, links, orders } = this.#context;
    const request = new RangeRequest({
      spans: this.spans,
      runs,
      deliver: (job, compressed, bytes, done) => {
        this.#jobs.accountSpan(job, bytes);
        void this.#jobs.track(this.#inflate(job, compressed)).finally(done);
      },
      ended: (arrived, source, started) => this.#jobs.fetchedRuns(arrived, source, started),
    });
    try {
      const provider = this.#jobs.providers.current(runs[0]![0]!.provider);
      this.#jobs.accountRequest();
      const ahead = runs.every((run) => run.every((job) => job.fetchedAs !== Priority.demand));
      await request.run(provider, buffers, activity, links, ahead ? orders.of(provider.source) : null);
    } catch (error) {
      for (const job of request.missing) {
        job.carrier = null;
        // A reader may have joined after the request was given up.
        if (job.wanted && (request.aborted || this.#elsewhere(job, error))) this.add(job);
        else if (request.aborted) this.#jobs.abandon(job);
        else this.#jobs.settle(job, error);
      }
      return;
    }
    if (request.missing.length > 0) this.#singly(request);
  }

  /** The source does not answer requests for several ranges: what did not come is asked for by single ranges. */
  #singly({ missing, host }: RangeRequest): void {
    const { log } = this.#context;
    const why = host === null ? null : untoldRefusal(host);
    if (why !== null)
      log.info({ host, why }, 'a host does not answer several ranges in one request: it is asked for single ranges');
    for (const job of missing) {
      job.carrier = null;
      job.apart = true;
      if (job.wanted) this.add(job);
      else this.#jobs.abandon(job);
    }
  }

  /** Whether to ask another archive's source for a span that this one does not give. */
  #elsewhere(job: SpanJob, error: unknown): boolean {
    const { log, counters } = this.#context;
    const { providers } = this.#jobs;
    if (job.rivalOf !== null || ++job.failures >= Math.min(MAX_SOURCES, providers.count)) return false;
    counters.failovers.add();
    log.warn({ layer: this.spans.digest, span: job.span, error: String(error) }, 'asking another source for a span');
    job.provider = providers.next(job.provider);
    return true;
  }

  async #inflate(job: SpanJob, compressed: Uint8Array): Promise<void> {
    this.#context.queue.arrived(job);
    const { spans } = this;
    const { span } = job;
    if (job.answered) {
      this.#jobs.abandon(job);
      return;
    }
    job.phase = 'inflating';
    try {
      const target = this.#jobs.target(span, job.priority);
      if (target.fd < 0 && job.waiters === 0 && job.priority >= Priority.prefetch && this.#jobs.cached.attached) {
        this.#context.counters.skippedBackground.add();
        this.#jobs.abandon(job);
        return;
      }
      const task: Omit<InflateTask, 'state'> = {
        type: 'inflate',
        kind: this.kind,
        compressed,
        sha256: spans.sha256(span),
        startBit: spans.startBit(span),
        outLength: spans.length(span),
        crc32: spans.crc32(span),
        blocks: spans.blocks(span),
        target,
      };
      const started = performance.now();
      const result = await this.#inflateWithAnyState(job, task);
      const good = result.status === 'stored' || result.status === 'bytes';
      this.#context.onInflated({
        layer: this.#jobs.cached.shared.id,
        span,
        bytes: spans.length(span),
        started,
        ended: performance.now(),
        error: good ? null : result.status,
      });
      if (good && job.content !== 'used') this.#jobs.share(span, compressed);
      if (this.#jobs.finish(job, target, result)) this.add(job);
    } catch (error) {
      this.#jobs.settle(job, error);
    }
  }

  /**
   * Each archive that shares the layer has a checkpoint state for the span. They agree, unless one archive is damaged or
   * forged: then another archive's state is used, so that no archive can take the layer from the others.
   */
  async #inflateWithAnyState(job: SpanJob, task: Omit<InflateTask, 'state'>): Promise<TaskResult> {
    const { providers } = this.#jobs;
    let provider = providers.current(job.provider);
    for (let tried = 1; ; tried++) {
      const result = await this.#inflateWithState(job, task, provider);
      if (result.status !== 'bad-state') return result;
      const { detail } = result;
      this.#context.log.error({ layer: this.spans.digest, span: job.span, detail }, 'a checkpoint state is wrong');
      if (tried >= providers.count) return result;
      provider = providers.next(provider);
    }
  }

  #inflateWithState(
    job: SpanJob,
    task: Omit<InflateTask, 'state'>,
    provider: LayerProvider,
  ): TaskResult | Promise<TaskResult> {
    let stored: Uint8Array;
    try {
      stored = provider.readState(job.span) ?? NO_STATE.stored;
    } catch (error) {
      // Its file was cut off, or cannot be read any more: another archive's can.
      if (error instanceof FormatError || isSystemError(error)) return { status: 'bad-state', detail: error.message };
      throw error;
    }
    const whole: InflateTask = { ...task, state: { stored, sha256: this.spans.stateSha256(job.span) } };
    job.task = whole;
    return this.#context.pool.run(whole, job.priority, provider.source);
  }
}

function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && (error as NodeJS.ErrnoException).syscall !== undefined;
}
