import { ClipError } from '../bytes/index.js';
import { Priority, type Task } from './inflate-tasks.js';

/** A verified span: its bytes, or null when they are in the layer's cache file (its generation was odd at that moment). */
export type SpanResult = Uint8Array | null;

/** Who can give up on a job that is under way. */
export interface JobCarrier {
  /** A job lost its last reader: stop if none of the others is wanted either. */
  reconsider(): void;
}

/** The one fetch of a span; all readers of the span wait for it meanwhile (docs/architecture.md, "Invariant 2"). */
export class SpanJob {
  /** Readers blocked on it. */
  waiters = 0;
  /** Somebody wants it without waiting: read-ahead, prefetch, fill. */
  background = false;
  /** How it was asked for when its bytes were: that is how they are accounted. */
  fetchedAs: Priority = Priority.demand;
  /** Times its bytes turned out wrong. */
  mismatches = 0;
  /** Times a source did not give them. */
  failures = 0;
  /** What is being inflated came from the content cache, or it was found wrong there and must not be asked again. */
  content: 'untried' | 'used' | 'poisoned' = 'untried';
  /** The source that is asked, in the order of the layer's providers. */
  provider = 0;
  phase: 'queued' | 'fetching' | 'inflating' = 'queued';
  carrier: JobCarrier | null = null;
  /** What an inflate worker was given for it. */
  task: Task | null = null;
  /** Called when it becomes what a reader waits for. */
  onUrgent: () => void = () => {};
  #priority: Priority;
  readonly promise: Promise<SpanResult>;
  resolve!: (result: SpanResult) => void;
  reject!: (error: unknown) => void;

  constructor(
    readonly span: number,
    priority: Priority,
  ) {
    this.#priority = priority;
    this.promise = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
    // A background job may fail without anybody waiting: it was counted and logged where it failed.
    this.promise.catch(() => {});
  }

  get priority(): Priority {
    return this.#priority;
  }

  set priority(priority: Priority) {
    this.#priority = priority;
    if (priority === Priority.demand) this.onUrgent();
  }

  get wanted(): boolean {
    return this.waiters > 0 || this.background;
  }
}

export function abandoned(what: string): ClipError {
  return new ClipError('ABORTED', `${what}: nobody waits for it any more`);
}

export function aborted(what: string, reason: unknown): ClipError {
  return new ClipError('ABORTED', `${what}: the read was given up`, { cause: reason });
}
