import { closeSync, openSync, writeSync } from 'node:fs';
import { expect, test } from 'vitest';
import { lazyStage } from '../../test/support/lazy-layers.js';
import { eventually } from '../../test/support/mounted.js';
import { compressibleBytes, gzipLayer } from '../../test/support/span-layers.js';
import { noteUse } from '../spans/index.js';
import { Recheck } from './recheck.js';

const SPAN = 64 * 1024;
const raw = compressibleBytes(8 * SPAN);
const layer = gzipLayer(raw, SPAN);
const stage = lazyStage(1);

test('a span that changes on the disk is found while readers use it, freed, and fetched again; unused ones are left alone', async () => {
  const { opened, cache, source } = await stage.open(layer);
  const { layer: lazy } = opened;
  const found: number[] = [];
  const recheck = new Recheck(cache, stage.pool, (_, span) => found.push(span), 20, 5);
  try {
    await opened.read(0, raw.length);
    const file = openSync(lazy.cached.path, 'r+');
    for (const span of [2, 5]) {
      const at = lazy.spans.start(span) + 1000;
      writeSync(file, Buffer.from([raw[at]! ^ 1]), 0, 1, at);
    }
    closeSync(file);
    // A FUSE worker reads span 2 and others, but not 5.
    await eventually(() => {
      cache.tick();
      for (const span of [0, 2, 3]) if (lazy.has(span)) noteUse(lazy.shared, span);
      return found.length > 0;
    });
    expect(found).toEqual([2]);
    expect(lazy.has(2)).toBe(false);
    const requests = source.requests.length;
    const offset = lazy.spans.start(2);
    expect(Buffer.compare(await opened.read(offset, SPAN), raw.subarray(offset, offset + SPAN))).toBe(0);
    expect(source.requests.length).toBe(requests + 1);
    // Read for every reader: checked before each, and right.
    const bad = lazy.spans.start(5);
    const got = await opened.read(bad, SPAN, { recheck: true });
    expect(Buffer.compare(got, raw.subarray(bad, bad + SPAN))).toBe(0);
    expect(source.requests.length).toBe(requests + 2);
  } finally {
    recheck.stop();
  }
});
