import type { Activity } from './activity.js';
import type { BufferPool } from './buffers.js';
import type { JobCarrier, SpanJob } from './job.js';

/** The source of a layer's compressed bytes: oci/'s ImageSource is one. */
export interface BlobSource {
  fetchBlob(
    digest: string,
    range: { start: number; end?: number },
    options?: { signal?: AbortSignal | undefined; size?: number | undefined },
  ): Promise<AsyncIterable<Uint8Array>>;
  fetchInto(
    digest: string,
    start: number,
    target: Uint8Array,
    options: {
      readonly signal?: AbortSignal | undefined;
      readonly size: number;
      readonly onBytes?: ((received: number) => Promise<void> | null) | undefined;
    },
  ): Promise<void>;
}

export interface RangePlan {
  readonly digest: string;
  readonly blobSize: number;
  readonly jobs: readonly SpanJob[];
  /** Blob bytes of a span, ⌊start⌋ and ⌈end⌉: neighbours overlap in the byte that holds their boundary. */
  start(job: SpanJob): number;
  end(job: SpanJob): number;
  /** A span's compressed bytes are there. `done` is called when they are not needed any more. */
  deliver(job: SpanJob, compressed: Uint8Array, done: () => void): void;
}

/**
 * One Range request for neighbouring spans: [⌊first bit / 8⌋, ⌈last bit / 8⌉). Each span is handed on as soon as its last
 * byte is in, while the rest still comes.
 */
export class RangeRequest implements JobCarrier {
  readonly #plan: RangePlan;
  readonly #abort = new AbortController();
  #delivered = 0;

  constructor(plan: RangePlan) {
    this.#plan = plan;
    for (const job of plan.jobs) job.carrier = this;
  }

  /** The jobs whose bytes did not come. */
  get missing(): readonly SpanJob[] {
    return this.#plan.jobs.slice(this.#delivered);
  }

  get aborted(): boolean {
    return this.#abort.signal.aborted;
  }

  reconsider(): void {
    if (this.missing.length > 0 && !this.missing.some((job) => job.wanted)) this.#abort.abort();
  }

  /** @throws what the source throws */
  async run(source: BlobSource, buffers: BufferPool, activity: Activity): Promise<void> {
    const { jobs, digest, blobSize: size } = this.#plan;
    const start = this.#plan.start(jobs[0]!);
    const end = this.#plan.end(jobs.at(-1)!);
    const buffer = buffers.acquire(end - start);
    let users = 1;
    const release = (): void => {
      if (--users === 0) buffers.release(buffer);
    };
    let receiving = false;
    try {
      const bytes = new Uint8Array(buffer, 0, end - start);
      const onBytes = (received: number): Promise<void> | null => {
        while (this.#delivered < jobs.length && this.#plan.end(jobs[this.#delivered]!) - start <= received) {
          const job = jobs[this.#delivered++]!;
          job.carrier = null;
          users++;
          this.#plan.deliver(job, bytes.subarray(this.#plan.start(job) - start, this.#plan.end(job) - start), release);
        }
        if (receiving || this.missing.length === 0) return null;
        if (!this.#awaited()) return activity.yieldLink();
        receiving = true;
        activity.beginReceiving();
        return null;
      };
      await source.fetchInto(digest, start, bytes, { signal: this.#abort.signal, size, onBytes });
    } finally {
      if (receiving) activity.endReceiving();
      release();
    }
  }

  /** A reader waits for bytes that have not come. */
  #awaited(): boolean {
    return this.missing.some((job) => job.waiters > 0);
  }
}
