import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { CATALOGUE } from '../src/metrics/index.js';
import { METRICS_PAGE, metricsPage } from './support/metrics-page.js';

// The page of metrics, the dashboard and the alerts, against the catalogue of metrics.

const contrib = (name: string): string => fileURLToPath(new URL(`../../contrib/${name}`, import.meta.url));

interface Dashboard {
  readonly panels: readonly {
    readonly id: number;
    readonly title: string;
    readonly targets: readonly { readonly expr: string }[];
  }[];
}

const dashboard = JSON.parse(readFileSync(contrib('grafana/clip.json'), 'utf8')) as Dashboard;
const rules = parse(readFileSync(contrib('prometheus/clip.rules.yml'), 'utf8')) as {
  groups: { rules: { alert: string; expr: string }[] }[];
};
const queries = [
  ...dashboard.panels.flatMap(({ title, targets }) => targets.map(({ expr }) => ({ where: title, expr }))),
  ...rules.groups.flatMap((group) => group.rules.map(({ alert, expr }) => ({ where: alert, expr }))),
];

/** What a query names that is not there: metrics, labels, and values of labels. */
function unknownIn(expr: string): string[] {
  const unknown: string[] = [];
  for (const [, name = '', selector = ''] of expr.matchAll(/\b(clip_[a-z0-9_]+)(?:\{([^}]*)\})?/g)) {
    const metric = CATALOGUE.find((one) =>
      one.type === 'histogram'
        ? [`${one.name}_bucket`, `${one.name}_sum`, `${one.name}_count`].includes(name)
        : one.name === name,
    );
    if (metric === undefined) {
      unknown.push(name);
      continue;
    }
    for (const [, label = '', operator = '', value = ''] of selector.matchAll(/(\w+)(=~|!~|!=|=)"([^"]*)"/g)) {
      if (label === 'instance') continue; // Prometheus's own
      const values = metric.series.map(({ labels }) => labels[label]);
      if (values.every((one) => one === undefined)) unknown.push(`${name}{${label}}`);
      else if (operator.includes('~')) {
        for (const part of value.split('|')) if (!values.includes(part)) unknown.push(`${name}{${label}="${part}"}`);
      } else if (!values.includes(value)) unknown.push(`${name}{${label}="${value}"}`);
    }
  }
  for (const [, list = ''] of expr.matchAll(/\bby \(([^)]*)\)/g)) {
    for (const label of list.split(',').map((part) => part.trim())) {
      const known = CATALOGUE.some(({ series }) => series.some(({ labels }) => label in labels));
      if (!known && label !== 'le' && label !== 'instance') unknown.push(`by (${label})`);
    }
  }
  return unknown;
}

describe('monitoring in contrib/', () => {
  it('has queries, and each names a metric', () => {
    expect(queries.length).toBeGreaterThan(30);
    for (const { where, expr } of queries) expect(`${where}: ${expr}`).toMatch(/clip_/);
  });

  it.each(queries)('$where: $expr names what there is', ({ expr }) => {
    expect(unknownIn(expr)).toEqual([]);
  });

  it.each([
    ['clip_no_such_total', ['clip_no_such_total']],
    ['clip_read_wait_seconds', ['clip_read_wait_seconds']], // a histogram is asked by its parts
    ['rate(clip_reads_total{result="hits"}[5m])', ['clip_reads_total{result="hits"}']],
    ['clip_reads_total{resulte="hit"}', ['clip_reads_total{resulte}']],
    ['sum by (sauce) (clip_reads_total)', ['by (sauce)']],
    ['clip_verification_failures_total{kind=~"digest|x"}', ['clip_verification_failures_total{kind="x"}']],
  ])('would find what is wrong in %s', (expr, expected) => {
    expect(unknownIn(expr)).toEqual(expected);
  });

  it('has alerts that promtool accepts', () => {
    const said = execFileSync('promtool', ['check', 'rules', contrib('prometheus/clip.rules.yml')], {
      encoding: 'utf8',
    });
    expect(said).toContain(`${rules.groups[0]!.rules.length} rules found`);
  });

  it('has queries that promtool can parse', () => {
    // As rules, because promtool has no other check of expressions. Grafana's variables stand for values.
    const recorded = queries.map(({ expr }, i) => ({
      record: `q${i}`,
      expr: expr.replaceAll('$__rate_interval', '5m').replaceAll('$instance', '.*'),
    }));
    const text = JSON.stringify({ groups: [{ name: 'queries', rules: recorded }] });
    const directory = mkdtempSync(path.join(tmpdir(), 'clip-queries-'));
    try {
      writeFileSync(path.join(directory, 'queries.yml'), text);
      const args = ['check', 'rules', path.join(directory, 'queries.yml')];
      expect(execFileSync('promtool', args, { encoding: 'utf8' })).toContain(`${queries.length} rules found`);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  it('has panels with ids of their own', () => {
    const ids = dashboard.panels.map(({ id }) => id);
    expect(new Set(ids).size).toBe(ids.length);
  });
});

describe('the catalogue of metrics', () => {
  it('is docs/metrics.md', () => {
    expect(readFileSync(METRICS_PAGE, 'utf8')).toBe(metricsPage());
  });

  it('has names, units and keys as monitoring expects them', () => {
    const names = CATALOGUE.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    for (const { name, type } of CATALOGUE) {
      expect(name).toMatch(/^clip_[a-z][a-z0-9_]*$/);
      expect(name.endsWith('_total')).toBe(type === 'counter');
      if (type === 'histogram') expect(name).toMatch(/_seconds$/);
    }
    const keys = CATALOGUE.flatMap(({ series }) => series.map(({ key }) => key));
    expect(new Set(keys).size).toBe(keys.length);
  });
});
