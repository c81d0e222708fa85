import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { lazyStage } from '../../../test/support/lazy-layers.js';
import { gzipLayer } from '../../../test/support/span-layers.js';
import type { References } from '../../archive/index.js';
import { newTouchRecords, noteTouch, noteUse } from '../../spans/index.js';
import { Follower } from './by-reference.js';
import type { FollowedImage } from './followed-image.js';

const SPAN = 128 * 1024;
const PAGE = 4096;
const NID = 100;
/** A fault waits for what lies around it, in the next span if it is that near: so each place lies in the middle of one. */
const FAR = 4 * SPAN;
const directory = mkdtempSync(join(tmpdir(), 'clip-loaded-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));
const stage = lazyStage();

let library: Buffer;
/** Offset and length of sections, and offsets of symbols. */
const sections = new Map<string, [number, number]>();
const places = new Map<string, number>();

beforeAll(() => {
  const [source, built] = [join(directory, 'a.s'), join(directory, 'liba.so')];
  const functions = ['called', 'unused', 'jumped'].map(
    (name) => `.skip ${FAR}\n.p2align 4\n.globl ${name}\n${name}: ret`,
  );
  writeFileSync(
    source,
    `.section .init_array,"aw"
.quad start
.text
${functions.join('\n')}
.skip ${FAR}
start: call called
jmp jumped
.skip ${FAR}
.data
.balign 8
.skip ${FAR}
.globl written
written: .quad start
.skip ${FAR}
`,
  );
  execFileSync('gcc', ['-shared', '-nostdlib', '-Wl,-z,relro,-z,now,-Bsymbolic', '-o', built, source]);
  library = readFileSync(built);
  const homes: [number, number, number][] = [];
  for (const line of execFileSync('readelf', ['-SW', built], { encoding: 'utf8' }).split('\n')) {
    const found = /\] (\S+)\s+\S+\s+([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+)/.exec(line);
    if (found === null) continue;
    const [address, offset, size] = found.slice(2).map((hex) => Number.parseInt(hex, 16));
    sections.set(found[1]!, [offset!, size!]);
    homes.push([address!, offset!, size!]);
  }
  for (const line of execFileSync('nm', [built], { encoding: 'utf8' }).split('\n')) {
    const [hex, , name] = line.split(' ');
    const address = Number.parseInt(hex!, 16);
    const home = homes.find(([from, , size]) => address >= from && address < from + size);
    if (name !== undefined && home !== undefined) places.set(name, home[1] + address - home[0]);
  }
});

/** A file whose tables, and nothing else, are fetched when it is opened. */
function references(): References {
  const range = ['.dynamic', '.init_array', '.rela.dyn'].flatMap((name) => {
    const [offset, length] = sections.get(name)!;
    const first = Math.floor(offset / PAGE);
    return [first, Math.ceil((offset + length) / PAGE) - first];
  });
  return {
    ...{ count: 1, nid: Float64Array.of(NID), firstTarget: new Uint32Array(2), target: new Uint32Array(0) },
    ...{ firstRange: Uint32Array.of(0, range.length), range: Uint32Array.from(range) },
  };
}

test.each([
  ['by a reader that waits', false],
  ['without a wait', true],
])(
  'what loading touches of a large library is fetched once it is opened %s, and its tables are not used up',
  async (_, silently) => {
    const { opened, cache, source } = await stage.open(gzipLayer(library, SPAN), { readahead: true });
    const faults: unknown[] = [];
    const image: FollowedImage = {
      references: references(),
      layers: [opened],
      hasRoom: (bytes) => cache.hasRoom(bytes),
      map: (_nid, offset, length, visit) => {
        const bytes = Math.min(length, library.length - offset);
        if (bytes > 0) visit(0, offset, bytes);
      },
      onFault: (error) => faults.push(error),
    };
    const follower = new Follower(image);
    stage.cleanup.push(() => follower.close());
    const { layer } = opened;
    const read = opened.read(0, PAGE);
    if (silently) {
      await read;
      const touch = newTouchRecords([library.length])!;
      follower.watch(touch);
      follower.onMiss(NID + 1, []);
      noteTouch(touch[0]!, 0, PAGE);
      noteUse(layer.shared, 0);
    } else {
      follower.onMiss(NID, [{ layer: 0, layerOffset: 0, length: PAGE }]);
      await read;
    }
    const span = (name: string): number => layer.spans.at(places.get(name)!);
    for (const name of ['start', 'called', 'jumped', 'written'])
      await expect.poll(() => layer.has(span(name)), { timeout: 10_000 }).toBe(true);
    expect(layer.has(span('unused'))).toBe(false);
    const tables = [...sections.values()].map(([offset]) => layer.spans.at(offset)).filter((at) => at > 0);
    expect(tables.filter((at) => layer.shared.lastUse[at]! > 0)).toEqual([]);
    expect(source.requests.length).toBeGreaterThan(0);
    expect(faults).toEqual([]);
  },
);

test('a file with ranges that is no program ends it, and is no fault', async () => {
  const { opened, cache } = await stage.open(gzipLayer(Buffer.alloc(8 * SPAN, 'text'), SPAN), { readahead: true });
  const faults: unknown[] = [];
  const follower = new Follower({
    references: references(),
    layers: [opened],
    hasRoom: (bytes) => cache.hasRoom(bytes),
    map: (_nid, offset, length, visit) => visit(0, Math.min(offset, 7 * SPAN), Math.min(length, SPAN)),
    onFault: (error) => faults.push(error),
  });
  stage.cleanup.push(() => follower.close());
  await opened.read(0, PAGE);
  follower.onMiss(NID, [{ layer: 0, layerOffset: 0, length: PAGE }]);
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(faults).toEqual([]);
});
