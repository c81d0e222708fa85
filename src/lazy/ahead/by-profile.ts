import { ClipError } from '../../bytes/index.js';
import { Priority } from '../inflate-tasks.js';
import type { LazyLayer } from '../lazy-layer.js';

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

/** What fetching ahead needs to know of the set. */
export interface AheadContext {
  /** Bytes that fit without pushing out what mounts use; also false while the disk takes no writes. */
  hasRoom(bytes: number): boolean;
  /** Whether the disk takes writes for this layer (again). */
  ready(layer: LazyLayer): boolean;
  /** Milliseconds since a reader last had to wait. */
  quietFor(): number;
}

/** Asked for and not there yet, in compressed bytes: enough to keep all requests busy, little enough to call off. */
const MAX_OUTSTANDING = 48 * 1024 * 1024;

/** Asks for spans in order, so many ahead of what has come; the queue joins neighbours and lets readers pass. */
class Runner {
  #outstanding = 0;
  #wake: () => void = () => {};
  readonly #waiting = new Map<Promise<unknown>, () => void>();

  constructor(
    readonly progress: AheadProgress,
    readonly priority: 2 | 3,
    readonly signal: AbortSignal | undefined,
    readonly context: AheadContext,
    /** Told of a span that was dropped because its room was taken, or the disk refused it. */
    readonly onDropped: (layer: LazyLayer, span: number) => void = () => {},
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
  async ask(layer: LazyLayer, span: number, limit = MAX_OUTSTANDING): Promise<boolean> {
    const bytes = layer.compressedBytes(span, span + 1);
    const done = (): void => {
      this.progress.done++;
      this.progress.doneBytes += bytes;
    };
    if (layer.has(span)) {
      done();
      return true;
    }
    if (!this.context.hasRoom(layer.cached.length(span))) return false;
    while (this.#outstanding > 0 && this.#outstanding + bytes > limit && !this.signal?.aborted) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    if (this.signal?.aborted) return false;
    const wait = layer.ahead(span, this.priority);
    if (wait === null) {
      done();
      return true;
    }
    this.#outstanding += bytes;
    const settled = wait
      .then(done, (error: unknown) => {
        // Called off, or dropped because its room was taken meanwhile: no failure of the source.
        if (!(error instanceof ClipError && error.code === 'ABORTED')) this.progress.failed++;
        else if (!this.signal?.aborted) this.onDropped(layer, span);
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

/**
 * Fetches a profile's spans in recorded order. Stops at the cache's cap. Resolves when all have come or were given up;
 * never rejects.
 */
export async function prefetch(
  layers: readonly LazyLayer[],
  profile: { readonly layer: Uint32Array; readonly span: Uint32Array },
  context: AheadContext,
  progress: AheadProgress,
  signal?: AbortSignal,
): Promise<void> {
  const runner = new Runner(progress, Priority.prefetch, signal, context);
  for (let i = 0; i < profile.span.length; i++) {
    if (!(await runner.ask(layers[profile.layer[i]!]!, profile.span[i]!))) break;
  }
  await runner.finish();
}

export interface FillOptions {
  /** Compressed bytes a second; default 20 MB/s: a link of 200 Mbit/s stays usable. */
  readonly bytesPerSecond?: number | undefined;
  /** It begins, and after each wait goes on, when no reader has had to wait for so long. Default 1000. */
  readonly quietMs?: number | undefined;
  /** Wait for a disk that takes no writes for now, instead of stopping. Default false. */
  readonly patient?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

const DEFAULT_FILL_RATE = 20e6;
const DEFAULT_QUIET_MS = 1000;
/** Asked for at once: what a demand read may find in its way. */
const FILL_OUTSTANDING = 8 * 1024 * 1024;

/** So many seconds' worth is asked for in one go before the rate is waited for: neighbours then share a request. */
const FILL_BATCH_SECONDS = 0.1;

/** How often a patient fill asks whether the disk takes writes again. */
const DISK_POLL_MS = 500;
/** Spans that the disk refused are asked for again so many times. */
const MAX_PASSES = 4;

/** Fetches all that is missing, at a bounded rate, while nobody waits for anything. Stops at the cap; never rejects. */
export async function fill(
  layers: readonly LazyLayer[],
  context: AheadContext,
  progress: AheadProgress,
  options: FillOptions = {},
): Promise<void> {
  let todo = layers.map((layer): FillPart => ({ layer, spans: range(layer.table.count) }));
  for (let pass = 0; pass < MAX_PASSES && todo.length > 0; pass++) {
    const dropped = new Map<LazyLayer, number[]>();
    await fillPass(todo, context, progress, options, (layer, span) => {
      const spans = dropped.get(layer);
      if (spans === undefined) dropped.set(layer, [span]);
      else spans.push(span);
    });
    if (options.patient !== true) return;
    todo = [...dropped].map(([layer, spans]) => ({ layer, spans }));
  }
}

interface FillPart {
  readonly layer: LazyLayer;
  readonly spans: Iterable<number>;
}

function* range(count: number): Iterable<number> {
  for (let i = 0; i < count; i++) yield i;
}

async function fillPass(
  parts: readonly FillPart[],
  context: AheadContext,
  progress: AheadProgress,
  options: FillOptions,
  onDropped: (layer: LazyLayer, span: number) => void,
): Promise<void> {
  const { bytesPerSecond = DEFAULT_FILL_RATE, quietMs = DEFAULT_QUIET_MS, patient = false, signal } = options;
  const runner = new Runner(progress, Priority.fill, signal, context, onDropped);
  const started = performance.now();
  let credit = 0;
  let since = started;
  everything: for (const { layer, spans } of parts) {
    if (!patient && !context.ready(layer)) continue; // memory alone cannot hold a layer
    for (const span of spans) {
      while (!signal?.aborted && Math.min(context.quietFor(), performance.now() - started) < quietMs) {
        await pause(Math.max(5, quietMs - context.quietFor()), signal);
        since = performance.now();
        credit = 0;
      }
      while (patient && !signal?.aborted && !context.ready(layer)) await pause(DISK_POLL_MS, signal);
      if (signal?.aborted) break everything;
      if (!layer.has(span)) {
        const bytes = layer.compressedBytes(span, span + 1);
        credit += ((performance.now() - since) / 1000) * bytesPerSecond - bytes;
        since = performance.now();
        // At most a request's worth is saved up while the disk or the link was slow.
        credit = Math.min(credit, FILL_OUTSTANDING / 2);
        if (credit < -FILL_BATCH_SECONDS * bytesPerSecond) await pause((-credit / bytesPerSecond) * 1000, signal);
      }
      if (!(await runner.ask(layer, span, FILL_OUTSTANDING))) break everything;
    }
  }
  await runner.finish();
}

/** Resolves after the time, or at the abort. Does not keep the process alive. */
function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    const end = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', end);
      resolve();
    };
    const timer = setTimeout(end, ms).unref();
    signal?.addEventListener('abort', end, { once: true });
    if (signal?.aborted) end();
  });
}
