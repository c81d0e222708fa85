import type { LayerProgress } from '../index/index.js';
import type { Progress } from './progress.js';
import { formatBytes } from './units.js';

/** Shows how far an index build is: which layer of how many, its tar so far, and the stages after the layers. */
export function showIndexing(progress: Pick<Progress, 'update'>): (state: LayerProgress) => void {
  return (state) => {
    const { digest, done, total, rate } = state;
    const label = labelOf(state);
    progress.update(digest, label, done, total, rate, label);
  };
}

function labelOf({ stage, layer, layers, uncompressed, known }: LayerProgress): string {
  if (stage === 'tree') return 'all layers read: making the tree';
  if (stage === 'archive') return 'all layers read: writing the archive';
  const which = `layer ${layer} of ${layers}`;
  if (known) return `${which}, known`;
  return uncompressed > 0 ? `${which}, ${formatBytes(uncompressed)} inflated` : which;
}
