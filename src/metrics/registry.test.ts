import { expect, test } from 'vitest';
import { Metrics } from './registry.js';

test('a snapshot sums counters with their sources from other threads, and asks the gauges', () => {
  const metrics = new Metrics();
  metrics.counter('demandBytes', 'x').add(5);
  metrics.counter('demandBytes', 'ignored').add(2);
  metrics.addSource(() => ({ demandBytes: 10, spanHits: 3 }));
  let used = 1;
  metrics.gauge('cacheBytes', 'used', () => used);
  used = 9;
  expect(metrics.snapshot()).toEqual({ cacheBytes: 9, demandBytes: 17, spanHits: 3 });
});

test('the exposition has a _total for each counter and a plain name for each gauge', () => {
  const metrics = new Metrics();
  metrics.counter('demandBytes', 'Compressed bytes a reader waited for').add(7);
  metrics.gauge('cacheBytes', 'Bytes on disk', () => 42);
  const { text, contentType } = metrics.exposition();
  expect(contentType).toMatch(/^text\/plain/);
  expect(text).toContain(
    '# HELP clip_demand_bytes_total Compressed bytes a reader waited for\n# TYPE clip_demand_bytes_total counter\n',
  );
  expect(text).toContain('# TYPE clip_cache_bytes gauge\n');
  expect(text).toMatch(/^clip_demand_bytes_total 7$/m);
  expect(text).toMatch(/^clip_cache_bytes 42$/m);
});
