import type { SpanIndex } from '../bytes/index.js';
import { ClipError } from '../bytes/index.js';
import type { Source } from '../metrics/index.js';
import { Priority, type Task } from './inflate-tasks.js';
import type { LayerProvider } from './types.js';

/** A verified span: its bytes, or null when they are in the layer's cache file (its generation was odd at that moment). */
export type SpanResult = Uint8Array | null;

/** What a job waits in: the queue, a request, a stream. */
export interface JobCarrier {
  /** The job has lost its last reader: drop it, or the whole request if no other job of it is wanted. */
  reconsider(job: SpanJob): void;
}

/** The one fetch of one span that is under way; all readers of the span share it (docs/architecture.md, "Invariant 2"). */
export class SpanJob {
  /** Readers blocked on it. */
  waiters = 0;
  /** Wanted without a reader that waits: by read-ahead, prefetch or fill. */
  background = false;
  /** Its priority when its bytes were asked for. They are accounted under it. */
  fetchedAs: Priority = Priority.demand;
  /** Times its bytes turned out wrong. */
  mismatches = 0;
  /** Where its bytes came from, if the source says so. */
  host: string | null = null;
  /** It was asked for in one request with ranges elsewhere in the layer, which the source does not answer. */
  apart = false;
  /** Times a source did not give them. */
  failures = 0;
  /** Whether the bytes at hand came from the content cache, or were wrong there and are not asked for there again. */
  content: 'untried' | 'used' | 'poisoned' = 'untried';
  /** Where its bytes come from, as far as that is known. */
  source: Source = 'registry';
  phase: 'queued' | 'fetching' | 'inflating' = 'queued';
  /** Null while it cannot be given up: it is being looked up in the content cache, or inflated. */
  carrier: JobCarrier | null = null;
  /** Compressed bytes that are accounted to its image since it left the queue. */
  fetchedBytes = 0;
  /** Those of them that have not come, if no reader asked for them. */
  comingBytes = 0;
  /** That account; null: none. */
  flow: { uninflated: number; coming: number } | null = null;
  /** Other images' fetches of the same span, by provider: none is held up by another one's registry. */
  readonly rivals = new Map<LayerProvider, SpanJob>();
  /** Why the fetch failed, while rivals go on. */
  failure: unknown = null;
  /** What an inflate worker was given for it. */
  task: Task | null = null;
  /** Called when a reader begins to wait for it. */
  onUrgent: () => void = () => {};
  #priority: Priority;
  /** Whose source is asked, and whose checkpoint state is used. */
  #provider: LayerProvider;
  /** Null: no other was ever asked. */
  #asked: Set<LayerProvider> | null = null;
  #answered = false;
  readonly promise: Promise<SpanResult>;
  #resolve!: (result: SpanResult) => void;
  #reject!: (error: unknown) => void;

  constructor(
    readonly span: SpanIndex,
    priority: Priority,
    provider: LayerProvider,
    /** The job whose rival it is. */
    readonly rivalOf: SpanJob | null = null,
  ) {
    this.#priority = priority;
    this.#provider = provider;
    this.promise = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // A background job may fail with no reader waiting: the failure was counted and logged where it happened.
    this.promise.catch(() => {});
  }

  get priority(): Priority {
    return this.#priority;
  }

  set priority(priority: Priority) {
    this.#priority = priority;
    if (priority === Priority.demand) this.onUrgent();
  }

  get provider(): LayerProvider {
    return this.#provider;
  }

  set provider(provider: LayerProvider) {
    this.noteAsked(provider);
    this.#provider = provider;
  }

  /** Another provider is asked in place of the one that was to be. */
  moveTo(provider: LayerProvider): void {
    this.#provider = provider;
  }

  /** A provider is asked for the span beside the one that is, or after it. */
  noteAsked(provider: LayerProvider): void {
    if (provider === this.#provider) return;
    this.#asked ??= new Set([this.#provider]);
    this.#asked.add(provider);
  }

  /** Whether the provider's own source was asked for the span, by this job or a rival of it. */
  hasAsked(provider: LayerProvider): boolean {
    return provider === this.#provider || this.#asked?.has(provider) === true;
  }

  /** Its readers have their answer: what is still under way is of no more use. */
  get answered(): boolean {
    return (this.rivalOf ?? this).#answered;
  }

  get wanted(): boolean {
    return !this.answered && (this.waiters > 0 || this.background);
  }

  resolve(result: SpanResult): void {
    this.#answered = true;
    this.#resolve(result);
  }

  reject(error: unknown): void {
    this.#answered = true;
    this.#reject(error);
  }
}

/** Gets spans that are not in the cache: each job that is added ends through SpanJobs. */
export interface SpanFetcher {
  add(job: SpanJob): void;
  /** The layer is not open for an archive any more. */
  providerLeft(provider: LayerProvider): void;
  /** The layer is being closed: frees what is held between fetches. */
  close(): void;
}

export function abandoned(what: string): ClipError {
  return new ClipError('ABORTED', `${what}: no reader waits for it any more`);
}

export function aborted(what: string, reason: unknown): ClipError {
  return new ClipError('ABORTED', `${what}: the read was given up`, { cause: reason });
}
