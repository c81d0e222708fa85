import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach } from 'vitest';
import { SpanCache, type SpanCacheOptions } from '../../src/cache/index.js';
import { InflatePool } from '../../src/lazy/inflate-pool.js';
import type { LayerClaim } from '../../src/lazy/layer-claim.js';
import { LayerSet, type LayerSetOptions } from '../../src/lazy/layer-set.js';
import type { LayerProvider } from '../../src/lazy/types.js';
import { Metrics } from '../../src/metrics/index.js';
import { FakeSource, type TestLayer } from './span-layers.js';

export interface LazyTestLayer {
  readonly opened: LayerClaim;
  readonly metrics: Metrics;
  readonly cache: SpanCache;
  readonly set: LayerSet;
  /** Closes layer and cache; once is enough, more do no harm. */
  close(): void;
}

export interface OpenOptions extends Partial<LayerSetOptions> {
  readonly cacheOptions?: SpanCacheOptions;
  /** Of the span cache; default one of its own. */
  readonly directory?: string;
}

/** What the tests of a file share. */
export interface LazyStage {
  readonly pool: InflatePool;
  /** A directory of each test's own. */
  readonly dir: string;
  /** What is to be done after the test, the last one first. */
  readonly cleanup: (() => unknown)[];
  /** One layer of a set of its own, from a source in this process. No read-ahead by default. Closed after the test. */
  open(layer: TestLayer, options?: OpenOptions): Promise<LazyTestLayer & { readonly source: FakeSource }>;
  /** The same from another source. */
  openFrom(source: LayerProvider['source'], layer: TestLayer, options?: OpenOptions): Promise<LazyTestLayer>;
}

/** Makes and takes away by hooks of the test file that calls it. */
export function lazyStage(workers = 2): LazyStage {
  let pool: InflatePool;
  let dir: string;
  const cleanup: (() => unknown)[] = [];
  beforeAll(() => {
    pool = new InflatePool({ workers });
  });
  afterAll(() => pool.close());
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'clip-lazy-'));
  });
  afterEach(async () => {
    for (const undo of cleanup.splice(0).reverse()) await undo();
    rmSync(dir, { recursive: true, force: true });
  });
  const openFrom: LazyStage['openFrom'] = async (source, layer, { cacheOptions = {}, directory, ...options } = {}) => {
    const metrics = new Metrics();
    const place = directory ?? mkdtempSync(join(dir, 'cache-'));
    const cache = await SpanCache.open(place, { metrics, maxBytes: 1 << 30, ...cacheOptions });
    const set = new LayerSet({ cache, metrics, readahead: false, pool, ...options });
    const opened = set.open({ ...layer, readState: (span) => layer.readState(span), source });
    let closed = false;
    const close = (): void => {
      if (closed) return;
      closed = true;
      opened.close();
      cache.close();
    };
    cleanup.push(close);
    return { opened, metrics, cache, set, close };
  };
  return {
    get pool() {
      return pool;
    },
    get dir() {
      return dir;
    },
    cleanup,
    openFrom,
    open: async (layer, options) => {
      const source = new FakeSource(layer.blob);
      return { ...(await openFrom(source, layer, options)), source };
    },
  };
}

/** Until no span has been under way for a while, however long a loaded machine takes for them. */
export async function quiet({ opened: { layer } }: Pick<LazyTestLayer, 'opened'>): Promise<void> {
  for (let idle = 0; idle < 6; idle++) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    for (let span = 0; span < layer.spans.count; span++) if (layer.fetching(span)) idle = -1;
  }
}
