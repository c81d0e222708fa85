import { Priority } from '../inflate-tasks.js';
import type { LayerClaim } from '../layer-claim.js';
import { type AheadContext, type AheadProgress, SpanRunner } from './span-runner.js';

interface ProfiledSpans {
  readonly layer: Uint32Array;
  readonly span: Uint32Array;
}

/**
 * Compressed bytes of a profile that are asked for at once. Neighbours among them share requests, so a reader waits at the most for this many
 * bytes that are wanted later than its own: 0.1 s of 1 Gbit/s.
 */
const WINDOW_BYTES = 12 * 1024 * 1024;

/**
 * Fetches a profile's spans in recorded order. Stops at the cache's cap. Resolves when all have come or were given up;
 * never rejects.
 * @param guess the profile is of other starts, perhaps of other machines
 */
export async function prefetchProfile(
  claims: readonly LayerClaim[],
  profile: ProfiledSpans,
  context: AheadContext,
  progress: AheadProgress,
  signal?: AbortSignal,
  guess = false,
): Promise<void> {
  const runner = new SpanRunner(progress, Priority.prefetch, signal, context);
  const lead = guess ? new Lead() : null;
  for (let i = 0; i < profile.span.length; i++) {
    const claim = claims[profile.layer[i]!]!;
    const span = profile.span[i]!;
    if (lead !== null && !(await lead.take(claim, span, signal))) break;
    if (!(await runner.ask(claim, span, WINDOW_BYTES))) break;
  }
  await runner.finish();
}

/**
 * Compressed bytes that a guess may fetch beyond those that were read of it: what a wrong or hostile profile can waste. At 1 Gbit/s it is
 * half a second, and readers of a right one are never so far behind what they need.
 */
const MAX_LEAD_BYTES = 64 * 1024 * 1024;
/** How often it is looked whether readers have caught up: FUSE workers answer them and send no message. */
const LOOK_MS = 20;

/** Keeps a profile that may be wrong from running far ahead of its readers. */
class Lead {
  /** Spans that were asked for and are not read yet. */
  #unread: { claim: LayerClaim; span: number; bytes: number }[] = [];
  #unreadBytes = 0;
  #readBytes = 0;

  /** Waits until the span may be asked for. False: it was called off. */
  async take(claim: LayerClaim, span: number, signal: AbortSignal | undefined): Promise<boolean> {
    while (this.#unreadBytes > MAX_LEAD_BYTES + this.#readBytes) {
      this.#settle();
      if (this.#unreadBytes <= MAX_LEAD_BYTES + this.#readBytes) break;
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS).unref());
      if (signal?.aborted) return false;
    }
    if (claim.layer.has(span)) return true;
    const bytes = claim.layer.spans.compressedBytes(span, span + 1);
    this.#unread.push({ claim, span, bytes });
    this.#unreadBytes += bytes;
    return true;
  }

  #settle(): void {
    this.#unread = this.#unread.filter(({ claim, span, bytes }) => {
      if (claim.layer.shared.lastUse[span]! <= 0) return true;
      this.#unreadBytes -= bytes;
      this.#readBytes += bytes;
      return false;
    });
  }
}
