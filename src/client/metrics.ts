import type { Metric } from '../metrics/index.js';
import { defaultRoot } from '../wire/index.js';
import { ClipdClient } from './clipd-client.js';

/**
 * The metrics of a clipd, as `stats().metrics` of a mount has them.
 * @param options.root whose; default that of CLIP_ROOT, or this user's. Mounts of `mountArchive` have a clipd of their own: ask them
 * @throws ClipError NOT_FOUND when none runs
 * @example
 * for (const metric of await getMetrics()) console.log(metric.name, metric.samples);
 */
export async function getMetrics(options: { readonly root?: string | undefined } = {}): Promise<readonly Metric[]> {
  return new ClipdClient(options.root ?? (process.env.CLIP_ROOT || defaultRoot())).metrics();
}
