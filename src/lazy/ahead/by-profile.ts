import { Priority } from '../inflate-tasks.js';
import type { LayerClaim } from '../layer-claim.js';
import { type AheadContext, type AheadProgress, SpanRunner } from './span-runner.js';

/**
 * Fetches a profile's spans in recorded order. Stops at the cache's cap. Resolves when all have come or were given up;
 * never rejects.
 */
export async function prefetchProfile(
  claims: readonly LayerClaim[],
  profile: { readonly layer: Uint32Array; readonly span: Uint32Array },
  context: AheadContext,
  progress: AheadProgress,
  signal?: AbortSignal,
): Promise<void> {
  const runner = new SpanRunner(progress, Priority.prefetch, signal, context);
  for (let i = 0; i < profile.span.length; i++) {
    if (!(await runner.ask(claims[profile.layer[i]!]!, profile.span[i]!))) break;
  }
  await runner.finish();
}
