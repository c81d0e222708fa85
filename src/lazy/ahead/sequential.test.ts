import { describe, expect, test } from 'vitest';
import type { LayerProvider } from '../types.js';
import { Readahead } from './sequential.js';

const PROVIDER = { readState: () => null } as unknown as LayerProvider;
const MIB = 1 << 20;
const READ = 128 * 1024;

/** A layer whose spans of 2 MiB and a bit, as they are in life, come when `deliver` says so. */
class Layer {
  readonly count = 100;
  readonly table = { count: 100, layerOffset: Float64Array.from({ length: 101 }, (_, i) => i * (2 * MIB + 5432)) };
  readonly spans = { table: this.table };
  readonly shared = { lastUse: new Int32Array(100) };
  readonly present = new Set<number>();
  readonly asked: number[] = [];
  readonly cancelled: number[] = [];
  readonly readahead = new Readahead(this);

  ahead(_provider: LayerProvider, span: number): null {
    if (!this.present.has(span)) this.asked.push(span);
    return null;
  }

  cancelAhead(span: number): void {
    this.cancelled.push(span);
  }

  deliver(): void {
    for (const span of this.asked) this.present.add(span);
  }

  /** As FUSE reads: the I/O thread hears only of what is missing. */
  read(offset: number): void {
    const { layerOffset } = this.table;
    const spans: number[] = [];
    for (let span = 0; span < 100; span++) {
      if (layerOffset[span + 1]! > offset && layerOffset[span]! < offset + READ) spans.push(span);
    }
    if (spans.some((span) => !this.present.has(span))) {
      this.readahead.onRead(PROVIDER, { key: 'f', end: layerOffset[100]! }, offset, spans[0]!, spans.at(-1)!);
    }
    for (const span of spans) {
      this.present.add(span);
      this.shared.lastUse[span] = 1;
    }
  }
}

describe('a sequential reader', () => {
  test.each([
    ['that is slower than the link', 1],
    ['that overtakes the link time and again', 40],
  ])('%s: nothing is called off, though its reads end where no span does', (_, every) => {
    const layer = new Layer();
    for (let offset = 0, reads = 0; offset + READ <= layer.table.layerOffset[100]!; offset += READ, reads++) {
      layer.read(offset);
      if (reads % every !== 0) continue;
      layer.deliver();
      layer.readahead.poll();
    }
    expect(layer.cancelled).toEqual([]);
    expect(new Set(layer.asked).size).toBe(layer.asked.length);
    expect(layer.asked.length).toBeGreaterThan(every === 1 ? 90 : 70);
  });

  test('what it is ahead grows to 16 MiB, then with what was read to 64 MiB, and is topped up in halves', () => {
    const layer = new Layer();
    const steps: number[] = [];
    for (let offset = 0; offset < 180 * MIB; offset += READ) {
      const before = layer.asked.length;
      layer.read(offset);
      layer.deliver();
      layer.readahead.poll();
      if (layer.asked.length > before) steps.push(layer.asked.length - before);
      const last = layer.asked.at(-1) ?? 0;
      expect(layer.table.layerOffset[last]! - offset).toBeLessThan(
        Math.min(64 * MIB, Math.max(16 * MIB, offset)) + 3 * MIB,
      );
    }
    expect(steps.slice(0, 7)).toEqual([1, 2, 3, 5, 6, 8, 10]);
    expect(Math.max(...steps)).toBe(17); // more than 32 MiB
  });

  test('a jump calls off what was asked for ahead', () => {
    const layer = new Layer();
    for (let offset = 0; offset < 20 * MIB; offset += READ) layer.read(offset);
    expect(layer.cancelled).toEqual([]);
    layer.read(150 * MIB);
    expect(layer.cancelled.length).toBeGreaterThan(0);
    const before = layer.asked.length;
    for (const page of [20, 91, 47, 3, 66]) layer.read(page * 2 * MIB);
    expect(layer.asked.length).toBe(before);
  });
});
