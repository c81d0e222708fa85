import { CATALOGUE, type MetricDefinition } from './catalogue.js';
import type { Histogram } from './histogram.js';
import type { Metrics } from './registry.js';

/** A counter or gauge with one set of labels. */
export interface MetricSample {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** A histogram with one set of labels. Buckets are cumulative, as in Prometheus; the last one has no bound. */
export interface HistogramSample {
  readonly labels: Readonly<Record<string, string>>;
  readonly count: number;
  readonly sum: number;
  readonly buckets: readonly { readonly le: number | null; readonly count: number }[];
}

/** A metric with its values now: docs/metrics.md lists them all. */
export type Metric =
  | {
      readonly name: string;
      readonly help: string;
      readonly type: 'counter' | 'gauge';
      readonly samples: readonly MetricSample[];
    }
  | {
      readonly name: string;
      readonly help: string;
      readonly type: 'histogram';
      readonly samples: readonly HistogramSample[];
    };

/** All metrics now. What this process has nothing of (there is no content cache) is left out. */
export function readMetrics(metrics: Metrics): Metric[] {
  const values = metrics.snapshot();
  return CATALOGUE.map((definition) => metricOf(definition, values, metrics.histograms)).filter(
    ({ samples }) => samples.length > 0,
  );
}

function metricOf(
  { name, type, help, series }: MetricDefinition,
  values: Readonly<Record<string, number>>,
  histograms: ReadonlyMap<string, Histogram>,
): Metric {
  if (type !== 'histogram') {
    const samples = series.flatMap(({ labels, key }) => {
      const value = values[key];
      return value === undefined ? [] : [{ labels, value }];
    });
    return { name, help, type, samples };
  }
  const samples = series.flatMap(({ labels, key }) => {
    const histogram = histograms.get(key);
    return histogram === undefined ? [] : [sampleOf(labels, histogram)];
  });
  return { name, help, type, samples };
}

function sampleOf(labels: Readonly<Record<string, string>>, histogram: Histogram): HistogramSample {
  let count = 0;
  const buckets = Array.from(histogram.counts, (here, i) => {
    count += here;
    return { le: histogram.bounds[i] ?? null, count };
  });
  return { labels, count, sum: histogram.sum, buckets };
}
