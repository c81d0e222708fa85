import type { Metric as PromMetric } from 'prom-client';
import Registry from 'prom-client/lib/registry.js';
import type { Metric } from '../../metrics/index.js';

/** Text for Prometheus, and its content type. */
export interface Exposition {
  readonly contentType: string;
  readonly text: string;
}

/** Metrics in the text format of Prometheus. */
export async function exposition(metrics: readonly Metric[]): Promise<Exposition> {
  const registry = new Registry();
  for (const metric of metrics) {
    const { name, help, type } = metric;
    const values =
      metric.type === 'histogram'
        ? metric.samples.flatMap(({ labels, count, sum, buckets }) => [
            ...buckets.map((bucket) => ({
              labels: { le: bucket.le ?? '+Inf', ...labels },
              value: bucket.count,
              metricName: `${name}_bucket`,
            })),
            { labels, value: sum, metricName: `${name}_sum` },
            { labels, value: count, metricName: `${name}_count` },
          ])
        : metric.samples;
    // The values are counted elsewhere, so the registry gets what its own classes would give it.
    const collected = { name, help, type, aggregator: 'sum', values };
    registry.registerMetric({ name, get: () => Promise.resolve(collected) } as unknown as PromMetric);
  }
  return { contentType: registry.contentType, text: await registry.metrics() };
}
