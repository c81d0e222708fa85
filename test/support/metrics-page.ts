import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { CATALOGUE, type MetricDefinition, SECONDS } from '../../src/metrics/index.js';

// docs/metrics.md out of the catalogue of metrics: `npm run metrics-page` writes it, and a test compares it.

export const METRICS_PAGE = fileURLToPath(new URL('../../../docs/metrics.md', import.meta.url));

function labelsOf({ series }: MetricDefinition): string {
  const [first] = series;
  const label = Object.keys(first?.labels ?? {})[0];
  if (label === undefined) return '';
  return `\`${label}\`: ${series.map(({ labels }) => `\`${labels[label]}\``).join(', ')}`;
}

export function metricsPage(): string {
  return [
    '# Metrics',
    '',
    'Made from the catalogue of metrics by `npm run metrics-page`; do not edit.',
    '',
    'clipd gives its metrics in the text format of Prometheus: `GET /metrics` on its socket, and over TCP with `clipctl daemon',
    '--metrics-addr HOST:PORT` ([operations.md](operations.md#monitoring)). `GET /v1/metrics`, `getMetrics()` and `stats().metrics` of a mount',
    'give the same as JSON ([api.md](api.md#metrics)). `contrib/` has a dashboard for Grafana and rules for alerts.',
    '',
    'Counters begin at 0 with each server process. Labels have the values listed here and no others. What a clipd has nothing of (no shared',
    `cache is configured) is left out. Histograms have the bounds ${SECONDS.join(', ')} seconds.`,
    '',
    '| metric | type | labels | meaning |',
    '|---|---|---|---|',
    ...CATALOGUE.map((metric) => `| \`${metric.name}\` | ${metric.type} | ${labelsOf(metric)} | ${metric.help} |`),
    '',
  ].join('\n');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) writeFileSync(METRICS_PAGE, metricsPage());
