import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { REFERENCE_PAGE } from '../archive/index.js';
import { type ElfNeeds, elfNeeds } from './elf.js';
import { rangesOf } from './link-references.js';

const directory = mkdtempSync(join(tmpdir(), 'clip-relocated-'));
/** Constants that hold addresses, as tables of functions do: 3.2 MB, for 9.6 MB of relocations. */
const POINTERS = 400_000;
let library: Buffer;
let needs: ElfNeeds;
/** What readelf says: offset and length. */
const sections = new Map<string, [number, number]>();

beforeAll(() => {
  const [source, built] = [join(directory, 'a.s'), join(directory, 'liba.so')];
  writeFileSync(
    source,
    `.text
.globl f
f: ret
.section .data.rel.ro,"aw"
.rept ${POINTERS}
.quad .text
.endr
`,
  );
  execFileSync('gcc', ['-shared', '-nostdlib', '-Wl,-z,relro,-z,now', '-o', built, source]);
  library = readFileSync(built);
  const parse = elfNeeds();
  let next = parse.next();
  while (!next.done) next = parse.next(library.subarray(next.value.offset, next.value.offset + next.value.length));
  needs = next.value!;
  for (const line of execFileSync('readelf', ['-SW', built], { encoding: 'utf8' }).split('\n')) {
    const found = /\] (\S+)\s+\S+\s+[0-9a-f]+ ([0-9a-f]+) ([0-9a-f]+)/.exec(line);
    if (found !== null) sections.set(found[1]!, [Number.parseInt(found[2]!, 16), Number.parseInt(found[3]!, 16)]);
  }
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const pages = (list: readonly number[]): Set<number> => {
  const all = new Set<number>();
  for (let i = 0; i < list.length; i += 2) for (let k = 0; k < list[i + 1]!; k++) all.add(list[i]! + k);
  return all;
};
const missing = (from: number, length: number, list: readonly number[]): number => {
  const known = pages(list);
  let count = 0;
  for (let page = Math.floor(from / REFERENCE_PAGE); page * REFERENCE_PAGE < from + length; page++)
    if (!known.has(page)) count++;
  return count;
};

test('the table of relocations and what it names are found, as readelf finds them', () => {
  const table = sections.get('.rela.dyn')!;
  expect(table[1]).toBe(24 * POINTERS);
  const parts = Array.from(
    { length: needs.relocated.length / 2 },
    (_, i) => needs.relocated.slice(2 * i, 2 * i + 2) as number[],
  );
  expect(parts).toContainEqual(table);
  const [from = 0, length = 0] = parts[0]!;
  const data = sections.get('.data.rel.ro')!;
  expect(from).toBeLessThanOrEqual(data[0]);
  expect(from + length).toBeGreaterThanOrEqual(data[0] + data[1]);
});

test('all of both is fetched with a large library, whatever its size', () => {
  const ranges = rangesOf({ size: library.length, needs });
  for (const name of ['.rela.dyn', '.data.rel.ro']) expect(missing(...sections.get(name)!, ranges)).toBe(0);
  // Without them it is the beginnings of the segments only.
  const before = rangesOf({ size: library.length, needs: { ...needs, relocated: [] } });
  for (const name of ['.rela.dyn', '.data.rel.ro'])
    expect(missing(...sections.get(name)!, before)).toBeGreaterThan(100);
});

test('parts that are not in the file, too long or too many give no ranges beyond it', () => {
  const end = Math.ceil(library.length / REFERENCE_PAGE);
  for (const relocated of [
    [2 ** 60, 2 ** 60],
    [library.length - 1, 2 ** 62],
    [0, Number.POSITIVE_INFINITY],
    [4096],
    Array.from({ length: 100_000 }, () => 4096),
  ]) {
    const ranges = rangesOf({ size: library.length, needs: { ...needs, relocated } });
    expect(ranges.length).toBeLessThan(60);
    for (let i = 0; i < ranges.length; i += 2) expect(ranges[i]! + ranges[i + 1]!).toBeLessThanOrEqual(end);
  }
});
