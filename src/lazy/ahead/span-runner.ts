import type { SpanIndex } from '../../bytes/index.js';
import { ClipError } from '../../bytes/index.js';
import type { Priority } from '../inflate-tasks.js';
import type { LayerClaim } from '../layer-claim.js';

export interface AheadProgress {
  /** Spans that are there: found, or fetched. */
  done: number;
  /** Spans that the source could not give, or that were not what the archive says (counted and logged there). */
  failed: number;
  readonly total: number;
  /** Compressed bytes of those that are there, and of all. */
  doneBytes: number;
  readonly totalBytes: number;
}

export function newProgress(total: number, totalBytes: number): AheadProgress {
  return { done: 0, failed: 0, total, doneBytes: 0, totalBytes };
}

/** What fetching ahead needs to know of the cache and of readers. */
export interface AheadContext {
  /** Bytes that fit without pushing out what mounts use; also false while the disk takes no writes. */
  hasRoom(bytes: number): boolean;
  /** Whether the disk takes writes for this layer (again). */
  ready(claim: LayerClaim): boolean;
  /** Milliseconds since a reader last had to wait. */
  quietFor(): number;
}

/** Asked for and not there yet, in compressed bytes: enough to keep all requests busy, little enough to call off. */
const MAX_OUTSTANDING = 48 * 1024 * 1024;

/** Asks for spans in order, up to a number of bytes ahead of what has come. The queue joins neighbours and lets readers pass. */
export class SpanRunner {
  #outstanding = 0;
  #wake: () => void = () => {};
  readonly #waiting = new Map<Promise<unknown>, () => void>();

  constructor(
    readonly progress: AheadProgress,
    readonly priority: typeof Priority.prefetch | typeof Priority.fill,
    readonly signal: AbortSignal | undefined,
    readonly context: AheadContext,
    /** Told of a span that was dropped because its room was taken, or the disk refused it. */
    readonly onDropped: (claim: LayerClaim, span: SpanIndex) => void = () => {},
  ) {
    signal?.addEventListener(
      'abort',
      () => {
        for (const cancel of this.#waiting.values()) cancel();
        this.#wake();
      },
      { once: true },
    );
  }

  /** False: stop here, there is no room or it was called off. */
  async ask(claim: LayerClaim, span: SpanIndex, limit = MAX_OUTSTANDING): Promise<boolean> {
    const { layer } = claim;
    const bytes = layer.spans.compressedBytes(span, span + 1);
    const done = (): void => {
      this.progress.done++;
      this.progress.doneBytes += bytes;
    };
    if (layer.has(span)) {
      done();
      return true;
    }
    if (!this.context.hasRoom(layer.spans.length(span))) return false;
    while (this.#outstanding > 0 && this.#outstanding + bytes > limit && !this.signal?.aborted) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    if (this.signal?.aborted) return false;
    const wait = claim.ahead(span, this.priority);
    if (wait === null) {
      done();
      return true;
    }
    this.#outstanding += bytes;
    const settled = wait
      .then(done, (error: unknown) => {
        // Called off, or dropped because its room was taken meanwhile: no failure of the source.
        if (!(error instanceof ClipError && error.code === 'ABORTED')) this.progress.failed++;
        else if (!this.signal?.aborted) this.onDropped(claim, span);
      })
      .finally(() => {
        this.#outstanding -= bytes;
        this.#waiting.delete(settled);
        this.#wake();
      });
    this.#waiting.set(settled, () => layer.cancelAhead(span));
    return true;
  }

  async finish(): Promise<void> {
    await Promise.all(this.#waiting.keys());
  }
}
