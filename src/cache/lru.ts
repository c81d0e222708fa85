import type { SpanIndex } from '../bytes/index.js';
import type { CachedLayer } from './cached-layer.js';

export interface Victim {
  readonly layer: CachedLayer;
  readonly first: number;
  readonly end: number;
}

/** Ages are 31-bit, so age × 2^22 + index stays a safe integer for up to 4 M candidates, more than any cap holds. */
const INDEX_RANGE = 2 ** 22;

/**
 * The least recently used spans of mounted layers that together free `bytes`, oldest first; neighbours of one layer are
 * joined. One pass over all spans: callers free a batch at a time, so that it is paid once per batch and not per span.
 */
export function leastRecentlyUsed(layers: Iterable<CachedLayer>, bytes: number): Victim[] {
  const owners: CachedLayer[] = [];
  const spans: number[] = [];
  const keys: number[] = [];
  const offer = (layer: CachedLayer, span: SpanIndex, age: number): void => {
    if (keys.length === INDEX_RANGE) return;
    keys.push(age * INDEX_RANGE + keys.length);
    owners.push(layer);
    spans.push(span);
  };
  for (const layer of layers) {
    if (layer.whole) {
      // Decoding starts from the beginning for any missing part, so the layer is as old as its youngest span.
      let youngest = 0;
      for (const use of layer.shared.lastUse) youngest = Math.max(youngest, Math.abs(use));
      if (layer.idle && !layer.sealed && layer.bytes > 0) offer(layer, -1, youngest);
      continue;
    }
    for (let span = 0; span < layer.count; span++) {
      if (layer.evictable(span) && layer.takesRoom(span)) offer(layer, span, Math.abs(layer.shared.lastUse[span]!));
    }
  }
  const order = Float64Array.from(keys).sort();
  const chosen = new Map<CachedLayer, number[]>();
  let freed = 0;
  for (const key of order) {
    if (freed >= bytes) break;
    const at = key % INDEX_RANGE;
    const [layer, span] = [owners[at]!, spans[at]!];
    const list = chosen.get(layer) ?? [];
    chosen.set(layer, list);
    if (span >= 0) {
      list.push(span);
      freed += layer.length(span);
    } else {
      for (let i = 0; i < layer.count; i++) if (layer.evictable(i)) list.push(i);
      freed += layer.bytes;
    }
  }
  const victims: Victim[] = [];
  for (const [layer, list] of chosen) {
    list.sort((a, b) => a - b);
    for (let i = 0; i < list.length; ) {
      let j = i + 1;
      while (j < list.length && list[j] === list[j - 1]! + 1) j++;
      victims.push({ layer, first: list[i]!, end: list[j - 1]! + 1 });
      i = j;
    }
  }
  return victims;
}
