import type { Source } from '../metrics/index.js';
import type { LayerSpans } from '../spans/index.js';
import type { Activity } from './activity.js';
import type { BufferPool } from './buffers.js';
import type { JobCarrier, SpanJob } from './job.js';
import type { Link, Links } from './link.js';
import { RequestLimit } from './request-limit.js';
import type { LayerProvider } from './types.js';

export interface RangePlan {
  readonly jobs: readonly SpanJob[];
  readonly spans: LayerSpans;
  /** A span's compressed bytes are there. It calls `done` when they are not needed any more. */
  deliver(job: SpanJob, compressed: Uint8Array, done: () => void): void;
  /** All bytes have come. Times are performance.now(). */
  ended(source: Source, bytes: number, started: number): void;
}

/**
 * One Range request for neighbouring spans. Each span is handed on as soon as its last byte is in, while the rest still comes.
 */
export class RangeRequest implements JobCarrier {
  readonly #plan: RangePlan;
  readonly #abort = new AbortController();
  #delivered = 0;
  #limit: RequestLimit | null = null;

  constructor(plan: RangePlan) {
    this.#plan = plan;
    for (const job of plan.jobs) job.carrier = this;
  }

  /** The jobs whose bytes did not come. */
  get missing(): readonly SpanJob[] {
    return this.#plan.jobs.slice(this.#delivered);
  }

  /** Given up because no reader is left. */
  get aborted(): boolean {
    return this.#abort.signal.aborted && this.#limit?.exceeded !== true;
  }

  reconsider(): void {
    if (this.missing.length > 0 && !this.missing.some((job) => job.wanted)) this.#abort.abort();
  }

  /** @throws what the source throws */
  async run(
    { source, blobSize: size }: LayerProvider,
    buffers: BufferPool,
    activity: Activity,
    links: Links,
  ): Promise<void> {
    const { jobs, spans } = this.#plan;
    const start = spans.byteStart(jobs[0]!.span);
    const end = spans.byteEnd(jobs.at(-1)!.span);
    const buffer = buffers.acquire(end - start);
    let users = 1;
    const release = (): void => {
      if (--users === 0) buffers.release(buffer);
    };
    let receiving = false;
    let link = null as Link | null;
    const limit = new RequestLimit(end - start, this.#abort);
    this.#limit = limit;
    try {
      const bytes = new Uint8Array(buffer, 0, end - start);
      let from: Source = 'registry';
      let host: string | null = null;
      let counted = 0;
      const onBytes = (received: number): Promise<void> | null => {
        const now = performance.now();
        if (link === null) {
          link = links.answered(source, host);
          link.began(now - started, received, now);
        } else link.received(received - counted, now);
        counted = received;
        while (this.#delivered < jobs.length && spans.byteEnd(jobs[this.#delivered]!.span) - start <= received) {
          const job = jobs[this.#delivered++]!;
          job.carrier = null;
          users++;
          this.#plan.deliver(
            job,
            bytes.subarray(spans.byteStart(job.span) - start, spans.byteEnd(job.span) - start),
            release,
          );
        }
        if (receiving || this.missing.length === 0) return null;
        if (!this.#awaited()) return activity.yieldLink();
        receiving = true;
        activity.beginReceiving();
        return null;
      };
      const mismatches = Math.max(...jobs.map((job) => job.mismatches));
      const onHost = (name: string): void => {
        host = name;
        for (const job of jobs) job.host = name;
      };
      const { signal } = this.#abort;
      const onOrigin = (origin: Source): void => {
        from = origin;
        for (const job of this.missing) job.source = origin;
      };
      const started = performance.now();
      await source.fetchInto(spans.digest, start, bytes, { signal, size, mismatches, onHost, onBytes, onOrigin });
      this.#plan.ended(from, end - start, started);
    } catch (error) {
      throw limit.exceeded ? limit.error(`bytes ${start} to ${end} of layer ${spans.digest}`, error) : error;
    } finally {
      limit.end();
      link?.ended(performance.now());
      if (receiving) activity.endReceiving();
      release();
    }
  }

  /** A reader waits for bytes that have not come. */
  #awaited(): boolean {
    return this.missing.some((job) => job.waiters > 0);
  }
}
