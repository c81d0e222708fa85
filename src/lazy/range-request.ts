import type { Source } from '../metrics/index.js';
import type { BlobRange } from '../oci/index.js';
import type { LayerSpans } from '../spans/index.js';
import type { Activity } from './activity.js';
import { mayComeBefore } from './ahead/policy.js';
import type { BufferPool } from './buffers.js';
import type { JobCarrier, SpanJob } from './job.js';
import type { Link, Links } from './link.js';
import type { ReceiveOrder } from './receive-order.js';
import { RequestLimit } from './request-limit.js';
import type { LayerProvider } from './types.js';

export interface RangePlan {
  /** Each in span order, with small gaps: a range of the request. More than one only if the source takes such requests. */
  readonly runs: readonly (readonly SpanJob[])[];
  readonly spans: LayerSpans;
  /**
   * A span's compressed bytes are there. It calls `done` when they are not needed any more.
   * @param bytes that came for it: with the gap before it, and without the byte that it shares with the span before
   */
  deliver(job: SpanJob, compressed: Uint8Array, bytes: number, done: () => void): void;
  /** The request is over, and has brought these runs. `started` is of performance.now(). */
  ended(arrived: readonly (readonly SpanJob[])[], source: Source, started: number): void;
}

/**
 * One Range request for neighbouring spans, or for several such runs. Each span is handed on as soon as its last byte is in, while the rest still comes.
 */
export class RangeRequest implements JobCarrier {
  readonly #plan: RangePlan;
  readonly #jobs: readonly SpanJob[];
  readonly #abort = new AbortController();
  #delivered = 0;
  #limit: RequestLimit | null = null;
  #host: string | null = null;

  constructor(plan: RangePlan) {
    this.#plan = plan;
    this.#jobs = plan.runs.flat();
    for (const job of this.#jobs) job.carrier = this;
  }

  /** The jobs whose bytes did not come. */
  get missing(): readonly SpanJob[] {
    return this.#jobs.slice(this.#delivered);
  }

  /** The runs whose bytes came, the last one as far as they did. */
  get arrived(): readonly (readonly SpanJob[])[] {
    let left = this.#delivered;
    const runs: (readonly SpanJob[])[] = [];
    for (const run of this.#plan.runs) {
      if (left <= 0) break;
      runs.push(run.slice(0, left));
      left -= run.length;
    }
    return runs;
  }

  /** That gave the last bytes, or refused to. */
  get host(): string | null {
    return this.#host;
  }

  /** Given up because no reader is left. */
  get aborted(): boolean {
    return this.#abort.signal.aborted && this.#limit?.exceeded !== true;
  }

  reconsider(): void {
    if (this.missing.length > 0 && !this.missing.some((job) => job.wanted)) this.#abort.abort();
  }

  /**
   * @param order the answer's bytes come in this order; null: a reader waits for them
   * Resolves when all bytes are there; with less if the source does not answer requests for several ranges.
   * @throws what the source throws
   */
  async run(
    { source, blobSize: size }: LayerProvider,
    buffers: BufferPool,
    activity: Activity,
    links: Links,
    order: ReceiveOrder | null,
  ): Promise<void> {
    const { runs, spans } = this.#plan;
    const jobs = this.#jobs;
    const ranges = runs.map((run): BlobRange => {
      const start = spans.byteStart(run[0]!.span);
      return { start, length: spans.byteEnd(run.at(-1)!.span) - start };
    });
    const places = placesOf(runs, ranges, spans);
    const total = ranges.reduce((sum, { length }) => sum + length, 0);
    const buffer = buffers.acquire(total);
    let users = 1;
    const release = (): void => {
      if (--users === 0) buffers.release(buffer);
    };
    let receiving = false;
    let link = null as Link | null;
    const limit = new RequestLimit(total, this.#abort);
    this.#limit = limit;
    const turn = order?.join(total) ?? null;
    if (turn !== null) for (const job of jobs) job.onUrgent = () => turn.hurry();
    try {
      const bytes = new Uint8Array(buffer, 0, total);
      let from: Source = 'registry';
      let counted = 0;
      const onBytes = (received: number): Promise<void> | null => {
        const now = performance.now();
        if (link === null) {
          link = links.answered(source, this.#host);
          link.began(now - sent, received, now);
        } else link.received(received - counted, now);
        turn?.received(received - counted);
        counted = received;
        while (this.#delivered < jobs.length && places[this.#delivered]!.end <= received) {
          const before = places[this.#delivered - 1]?.end ?? 0;
          const { start, end } = places[this.#delivered]!;
          const job = jobs[this.#delivered++]!;
          job.carrier = null;
          users++;
          this.#plan.deliver(job, bytes.subarray(start, end), end - before, release);
        }
        if (receiving || this.missing.length === 0) return null;
        if (!this.#awaited()) return activity.yieldLink() ?? turn?.wait(mayComeBefore(link)) ?? null;
        receiving = true;
        activity.beginReceiving();
        return null;
      };
      const mismatches = Math.max(...jobs.map((job) => job.mismatches));
      const onHost = (name: string): void => {
        this.#host = name;
        for (const job of this.missing) job.host = name;
      };
      const { signal } = this.#abort;
      const onOrigin = (origin: Source): void => {
        from = origin;
        for (const job of this.missing) job.source = origin;
      };
      const started = performance.now();
      let sent = started;
      const onSent = (): void => {
        sent = performance.now();
      };
      const options = { signal, size, mismatches, onHost, onBytes, onOrigin, onSent };
      if (ranges.length === 1) await source.fetchInto(spans.digest, ranges[0]!.start, bytes, options);
      else await source.fetchParts?.(spans.digest, ranges, bytes, options);
      this.#plan.ended(this.arrived, from, started);
    } catch (error) {
      const what = `bytes ${ranges[0]!.start} to ${ranges.at(-1)!.start + ranges.at(-1)!.length} of layer ${spans.digest}`;
      throw limit.exceeded ? limit.error(what, error) : error;
    } finally {
      limit.end();
      turn?.end();
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

/** Where in the request's memory each span's bytes are: ranges one after the other. */
function placesOf(
  runs: readonly (readonly SpanJob[])[],
  ranges: readonly BlobRange[],
  spans: LayerSpans,
): { start: number; end: number }[] {
  let base = 0;
  return runs.flatMap((run, i) => {
    const { start, length } = ranges[i]!;
    const shift = base - start;
    base += length;
    return run.map(({ span }) => ({ start: spans.byteStart(span) + shift, end: spans.byteEnd(span) + shift }));
  });
}
