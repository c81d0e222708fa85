import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { plotsOf } from '../bench/plots.js';

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
