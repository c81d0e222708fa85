import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { eachReference } from './code-references.js';
import { loadTouches } from './load-touches.js';

const directory = mkdtempSync(join(tmpdir(), 'clip-load-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const GRAIN = 64 * 1024;
const MIB = 1024 * 1024;
const grains = (offsets: readonly number[]): number[] => [...new Set(offsets.map((o) => Math.floor(o / GRAIN)))];

/** Everything lies 1 MiB from everything else. */
const SOURCE = `
.macro far_from_all name
.skip ${MIB}
.p2align 4
.globl \\name
\\name: ret
.endm
.text
far_from_all first
far_from_all second
far_from_all unused
.skip ${MIB}
.globl start
start: call first
leaq text(%rip), %rdi
jmp second
.skip ${MIB}
.section .rodata
.skip ${MIB}
.globl text
text: .asciz "x"
.skip ${MIB}
.data
.balign 8
.skip ${MIB}
.globl written
written: .quad first
.skip ${MIB}
.globl also
also: .quad second, text
.skip ${MIB}
.byte 1
.bss
.skip 65536
`;
const ARRAY = '.section .init_array,"aw"\n.balign 8\n.quad start\n';

/** Fewer are no table of constructors. */
const RUN = Array(6).fill('second').join(', ');

interface Built {
  readonly bytes: Buffer;
  /** Offset in the file of a symbol, as nm and readelf have it. */
  at(name: string): number;
  section(name: string): { offset: number; size: number };
}

function build(name: string, source: string, ...flags: string[]): Built {
  const [from, to] = [join(directory, `${name}.s`), join(directory, `${name}.so`)];
  writeFileSync(from, source);
  execFileSync('gcc', ['-shared', '-nostdlib', '-Wl,-z,relro,-z,now,-Bsymbolic', ...flags, '-o', to, from]);
  const sections = new Map<string, { address: number; offset: number; size: number }>();
  for (const line of execFileSync('readelf', ['-SW', to], { encoding: 'utf8' }).split('\n')) {
    const found = /\] (\S+)\s+\S+\s+([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+)/.exec(line);
    if (found === null) continue;
    const [address, offset, size] = found.slice(2).map((hex) => Number.parseInt(hex, 16));
    sections.set(found[1]!, { address: address!, offset: offset!, size: size! });
  }
  const symbols = new Map<string, number>();
  for (const line of execFileSync('nm', [to], { encoding: 'utf8' }).split('\n')) {
    const [value, , symbol] = line.split(' ');
    if (symbol !== undefined) symbols.set(symbol, Number.parseInt(value!, 16));
  }
  return {
    bytes: readFileSync(to),
    at: (symbol) => {
      const address = symbols.get(symbol)!;
      const home = [...sections.values()].find((s) => address >= s.address && address < s.address + s.size)!;
      return home.offset + address - home.address;
    },
    section: (section) => sections.get(section)!,
  };
}

interface Loaded {
  readonly surely: number[];
  readonly likely: number[];
  readonly parts: number;
}

function load(bytes: Uint8Array): Loaded {
  const [surely, likely]: [number[], number[]] = [[], []];
  const steps = loadTouches((offset, sure) => (sure ? surely : likely).push(offset));
  let parts = 0;
  for (let step = steps.next(); !step.done; parts++) {
    expect(step.value.length).toBeLessThanOrEqual(MIB);
    step = steps.next(bytes.subarray(step.value.offset, step.value.offset + step.value.length));
  }
  return { surely, likely, parts };
}

describe.each([
  ['DT_RELA', []],
  ['DT_RELR', ['-Wl,-z,pack-relative-relocs']],
])('a library relocated by %s', (name, flags) => {
  let built: Built;
  beforeAll(() => {
    built = build(name, ARRAY + SOURCE, ...flags);
  });

  test('loading touches what relocations write, the names of symbols and the end of the data', () => {
    const table = built.section(name === 'DT_RELR' ? '.relr.dyn' : '.rela.dyn');
    expect(table.size).toBeGreaterThan(0);
    const { surely } = load(built.bytes);
    const data = built.section('.data');
    const sure = [built.at('written'), built.at('also'), built.section('.dynstr').offset, built.at('start')];
    for (const offset of [...sure, data.offset + data.size - 1])
      expect(grains(surely)).toContain(Math.floor(offset / GRAIN));
    // And .init_array and .dynamic, which lie together, and the second word of `also`.
    expect(grains(surely).length).toBeLessThanOrEqual(sure.length + 3);
  });

  test('constructors call functions and take addresses', () => {
    const { likely } = load(built.bytes);
    expect(grains(likely)).toEqual(grains([built.at('first'), built.at('text'), built.at('second')]));
  });
});

test('a few functions that the first relocations name are none', () => {
  const { bytes, at } = build('few', `.section .data.rel.ro,"aw"\n.quad start, second, text\n${SOURCE}`);
  expect(grains(load(bytes).surely)).not.toContain(grains([at('start')])[0]);
});

test('functions that the first relocations name in a row are constructors, and the last one runs first', () => {
  const built = build('ctors', `.section .data.rel.ro,"aw"\n.quad ${RUN}, start, first, text, unused\n${SOURCE}`);
  const { surely, likely } = load(built.bytes);
  const order = ['first', 'start', 'second'].map((name) => grains([built.at(name)])[0]!);
  expect(grains(surely).filter((grain) => order.includes(grain))).toEqual(order);
  expect(grains(surely)).not.toContain(grains([built.at('unused')])[0]);
  expect(grains(likely)).toEqual(grains([built.at('text')]));
});

test('calls, jumps and addresses in code are found as objdump finds them', () => {
  const library = execFileSync('ldd', ['/bin/sh'], { encoding: 'utf8' });
  const libc = /=> (\S*libc\.so\.6)/.exec(library)![1]!;
  const text = execFileSync('readelf', ['-SW', libc], { encoding: 'utf8' });
  const found = /\] \.text\s+\S+\s+([0-9a-f]+) ([0-9a-f]+)/.exec(text)!;
  const [address, offset] = [Number.parseInt(found[1]!, 16), Number.parseInt(found[2]!, 16)];
  const LENGTH = 256 * 1024;
  const listing = execFileSync(
    'objdump',
    ['-d', '--no-show-raw-insn', `--start-address=${address}`, `--stop-address=${address + LENGTH}`, libc],
    { encoding: 'utf8', maxBuffer: 1 << 27 },
  );
  const called = new Set<number>();
  for (const [, target] of listing.matchAll(/\scall\s+([0-9a-f]+) </g)) called.add(Number.parseInt(target!, 16));
  const taken = new Set<number>();
  for (const [, target] of listing.matchAll(/\slea\s+0x[0-9a-f]+\(%rip\),%r\w+\s+# ([0-9a-f]+)/g))
    taken.add(Number.parseInt(target!, 16));
  const [calls, addresses] = [new Set<number>(), new Set<number>()];
  eachReference(readFileSync(libc).subarray(offset, offset + LENGTH), address, (target, isCall) =>
    (isCall ? calls : addresses).add(target),
  );
  const aligned = [...called].filter((target) => target % 16 === 0);
  expect(aligned.length).toBeGreaterThan(50);
  expect(taken.size).toBeGreaterThan(50);
  expect(aligned.filter((target) => !calls.has(target))).toEqual([]);
  expect([...taken].filter((target) => !addresses.has(target))).toEqual([]);
  // Jumps between functions are references too; little besides.
  expect(addresses.size).toBeLessThan(1.1 * taken.size);
});

test('a file that is damaged or cut off ends the search, and names a bounded number of places', () => {
  const { bytes } = build('damaged', ARRAY + SOURCE);
  let state = 1;
  const random = (below: number): number => {
    state = (state * 48271) % 0x7fffffff;
    return state % below;
  };
  const dynamic = bytes.readUInt32LE(64 + 8);
  for (let round = 0; round < 200; round++) {
    const damaged = Buffer.from(bytes);
    for (let i = 0; i < 1 + random(6); i++) {
      const at = random(3) === 0 ? dynamic + random(512) : random(1024);
      if (at < damaged.length) damaged[at] = random(256);
    }
    const { surely, likely, parts } = load(damaged);
    expect(parts).toBeLessThan(300);
    expect(surely.length + likely.length).toBeLessThanOrEqual(16 * 1024);
  }
  for (const length of [0, 10, 64, 200, 4096, bytes.length - 4096]) load(bytes.subarray(0, length));
  expect(load(Buffer.from('#!/bin/sh\n'.repeat(20))).parts).toBe(1);
});
