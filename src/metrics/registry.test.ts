import { expect, test } from 'vitest';
import { readMetrics } from './families.js';
import { Histogram } from './histogram.js';
import { Metrics } from './registry.js';

test('a snapshot sums counters with their sources from other threads, and asks the gauges', () => {
  const metrics = new Metrics();
  metrics.counter('demandBytes').add(5);
  metrics.counter('demandBytes').add(2);
  metrics.addSource(() => ({ demandBytes: 10, spanHits: 3 }));
  let used = 1;
  metrics.gauge('cacheUsedBytes', () => used);
  used = 9;
  expect(metrics.snapshot()).toEqual({ cacheUsedBytes: 9, demandBytes: 17, spanHits: 3 });
});

test('metrics have the names, labels and helps of the catalogue; what is not counted here is left out', () => {
  const metrics = new Metrics();
  metrics.counter('demandBytes').add(7);
  metrics.gauge('cacheUsedBytes', () => 42);
  metrics.histogram('sourceSeconds.mirror').observe(0.004);
  const read = readMetrics(metrics);
  expect(read.map(({ name }) => name)).toEqual(['clip_source_seconds', 'clip_fetch_bytes_total', 'clip_cache_bytes']);
  expect(read[1]).toEqual({
    name: 'clip_fetch_bytes_total',
    help: 'Compressed bytes fetched, by reason',
    type: 'counter',
    samples: [{ labels: { reason: 'demand' }, value: 7 }],
  });
  expect(read[0]).toMatchObject({
    type: 'histogram',
    samples: [{ labels: { source: 'mirror' }, count: 1, sum: 0.004 }],
  });
});

test('buckets are cumulative and the last one has no bound', () => {
  const metrics = new Metrics();
  const histogram = metrics.histogram('firstExecSeconds');
  for (const value of [0.0004, 0.0005, 0.6, 1000]) histogram.observe(value);
  const [first] = readMetrics(metrics);
  if (first?.type !== 'histogram') throw new Error('no histogram');
  const { buckets, count } = first.samples[0]!;
  expect(count).toBe(4);
  expect(buckets[0]).toEqual({ le: 0.0005, count: 2 });
  expect(buckets.find(({ le }) => le === 0.75)?.count).toBe(3);
  expect(buckets.at(-1)).toEqual({ le: null, count: 4 });
});

test('quantiles lie within the bounds of their bucket, none is more than the largest value, and there are none of nothing', () => {
  const histogram = new Histogram([1, 2, 4]);
  expect(histogram.quantile(0.5)).toBeNull();
  for (let i = 0; i < 98; i++) histogram.observe(1.5);
  histogram.observe(3);
  histogram.observe(9);
  expect(histogram.quantile(0.5)).toBeGreaterThan(1);
  expect(histogram.quantile(0.5)).toBeLessThanOrEqual(2);
  expect(histogram.quantile(0.985)).toBeGreaterThan(2);
  expect(histogram.quantile(1)).toBe(9);
  // A single wait of 5.0 s had a p50 of 7.5 s and a p99 of 9.9 s.
  const one = new Histogram([5, 10]);
  one.observe(5.01);
  expect([one.quantile(0.5), one.quantile(0.99)]).toEqual([5.01, 5.01]);
});
