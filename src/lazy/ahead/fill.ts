import type { SpanIndex } from '../../bytes/index.js';
import { Priority } from '../inflate-tasks.js';
import type { LayerClaim } from '../layer-claim.js';
import { type AheadContext, type AheadProgress, SpanRunner } from './span-runner.js';

export interface FillPace {
  /** Compressed bytes a second; default 20 MB/s: a link of 200 Mbit/s stays usable. */
  readonly bytesPerSecond?: number | undefined;
  /** It begins, and after each wait goes on, when no reader has had to wait for this long. Default 1000. */
  readonly quietMs?: number | undefined;
  /** Wait for a disk that takes no writes for now, instead of stopping. Default false. */
  readonly patient?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

const DEFAULT_FILL_RATE = 20e6;
const DEFAULT_QUIET_MS = 1000;
/** Asked for at once. A reader may find that much in its way. */
const FILL_OUTSTANDING = 8 * 1024 * 1024;

/** This much time's worth is asked for in one go before the rate is waited for, so that neighbours share a request. */
const FILL_BATCH_SECONDS = 0.1;

/** How often a patient fill asks whether the disk takes writes again. */
const DISK_POLL_MS = 500;
/** Times that spans which the disk refused are asked for. */
const MAX_PASSES = 4;

/** Fetches all that is missing, at a bounded rate, while no reader waits. Stops at the cap; never rejects. */
export async function fill(
  claims: readonly LayerClaim[],
  context: AheadContext,
  progress: AheadProgress,
  options: FillPace = {},
): Promise<void> {
  let todo = claims.map((claim): FillPart => ({ claim, spans: range(claim.layer.spans.count) }));
  for (let pass = 0; pass < MAX_PASSES && todo.length > 0; pass++) {
    const dropped = new Map<LayerClaim, number[]>();
    await fillPass(todo, context, progress, options, (claim, span) => {
      const spans = dropped.get(claim);
      if (spans === undefined) dropped.set(claim, [span]);
      else spans.push(span);
    });
    if (options.patient !== true) return;
    todo = [...dropped].map(([claim, spans]) => ({ claim, spans }));
  }
}

interface FillPart {
  readonly claim: LayerClaim;
  readonly spans: Iterable<number>;
}

function* range(count: number): Iterable<number> {
  for (let i = 0; i < count; i++) yield i;
}

async function fillPass(
  parts: readonly FillPart[],
  context: AheadContext,
  progress: AheadProgress,
  options: FillPace,
  onDropped: (claim: LayerClaim, span: SpanIndex) => void,
): Promise<void> {
  const { bytesPerSecond = DEFAULT_FILL_RATE, quietMs = DEFAULT_QUIET_MS, patient = false, signal } = options;
  const runner = new SpanRunner(progress, Priority.fill, signal, context, onDropped);
  const started = performance.now();
  let credit = 0;
  let since = started;
  everything: for (const { claim, spans } of parts) {
    const { layer } = claim;
    if (!patient && !context.ready(claim)) continue; // memory alone cannot hold a layer
    for (const span of spans) {
      while (!signal?.aborted && Math.min(context.quietFor(), performance.now() - started) < quietMs) {
        await pause(Math.max(5, quietMs - context.quietFor()), signal);
        since = performance.now();
        credit = 0;
      }
      while (patient && !signal?.aborted && !context.ready(claim)) await pause(DISK_POLL_MS, signal);
      if (signal?.aborted) break everything;
      if (!layer.has(span)) {
        const bytes = layer.spans.compressedBytes(span, span + 1);
        credit += ((performance.now() - since) / 1000) * bytesPerSecond - bytes;
        since = performance.now();
        // At most a request's worth is saved up while the disk or the link was slow.
        credit = Math.min(credit, FILL_OUTSTANDING / 2);
        if (credit < -FILL_BATCH_SECONDS * bytesPerSecond) await pause((-credit / bytesPerSecond) * 1000, signal);
      }
      if (!(await runner.ask(claim, span, FILL_OUTSTANDING))) break everything;
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
