import { SpanCache, type SpanCacheOptions } from '../../src/cache/index.js';
import type { LayerClaim } from '../../src/lazy/layer-claim.js';
import { LayerSet, type LayerSetOptions } from '../../src/lazy/layer-set.js';
import { Metrics } from '../../src/metrics/index.js';
import { FakeSource, type TestLayer } from './span-layers.js';

export interface LazyTestLayer {
  readonly opened: LayerClaim;
  readonly source: FakeSource;
  readonly metrics: Metrics;
  readonly cache: SpanCache;
  readonly set: LayerSet;
  /** Closes layer and cache; once is enough, more do no harm. */
  close(): void;
}

/** One layer of a set of its own, from a source in this process, with a span cache at `directory`. No read-ahead by default. */
export async function openLazyLayer(
  layer: TestLayer,
  directory: string,
  options: Pick<LayerSetOptions, 'pool'> & Partial<LayerSetOptions>,
  cacheOptions: SpanCacheOptions = {},
): Promise<LazyTestLayer> {
  const metrics = new Metrics();
  const cache = await SpanCache.open(directory, { metrics, maxBytes: 1 << 30, ...cacheOptions });
  const set = new LayerSet({ cache, metrics, readahead: false, ...options });
  const source = new FakeSource(layer.blob);
  const opened = set.open({ ...layer, readState: (span) => layer.readState(span), source });
  let closed = false;
  const close = (): void => {
    if (closed) return;
    closed = true;
    opened.close();
    cache.close();
  };
  return { opened, source, metrics, cache, set, close };
}
