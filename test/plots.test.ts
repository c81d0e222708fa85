import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { plotsOf } from '../bench/plots.js';
import { replaceTable, table } from '../bench/report.js';

const docs = (name: string): string =>
  readFileSync(fileURLToPath(new URL(`../../docs/${name}`, import.meta.url)), 'utf8');

test('the plots of docs/benchmarks.md are those of its tables, and shown there', () => {
  const page = docs('benchmarks.md');
  for (const [name, svg] of Object.entries(plotsOf(page))) {
    expect(page).toContain(`](plots/${name})`);
    // npm run bench -- --plots draws them anew.
    expect([name, docs(`plots/${name}`)]).toEqual([name, svg]);
    expect(svg).not.toMatch(/<script|<style|NaN|undefined/);
  }
});

test('a part of a suite is put among the rows that the page has of it', () => {
  const page = docs('benchmarks.md');
  const row = (metric: string, value: number) => ({ metric, value, unit: 's' });
  const result = { title: 'layers', rows: [row('4 GB: index', 1.5), row('20 GB: index', 100)] };
  const lines = replaceTable(page, 'scale-bytes', table('scale-bytes', result, page)).split('\n');
  const others = (of: readonly string[]) =>
    of.filter((line) => /^\| \d+ [MG]B: /.test(line) && !line.startsWith('| 20 GB'));
  expect(others(lines)).toHaveLength(others(page.split('\n')).length);
  expect(lines.filter((line) => /^\| 4 GB: index +\| 1\.50 s /.test(line))).toHaveLength(1);
  expect(lines.filter((line) => /^\| 20 GB: index +\| 100 s /.test(line))).toHaveLength(1);
});
