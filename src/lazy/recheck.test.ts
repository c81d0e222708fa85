import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openLazyLayer } from '../../test/support/lazy-layers.js';
import { eventually } from '../../test/support/mounted.js';
import { compressibleBytes, gzipLayer } from '../../test/support/span-layers.js';
import { noteUse } from '../spans/index.js';
import { InflatePool } from './inflate-pool.js';
import { Recheck } from './recheck.js';

const SPAN = 64 * 1024;
const raw = compressibleBytes(8 * SPAN);
const layer = gzipLayer(raw, SPAN);
let pool: InflatePool;
let dir: string;

beforeEach(() => {
  pool = new InflatePool({ workers: 1 });
  dir = mkdtempSync(join(tmpdir(), 'clip-recheck-'));
});
afterEach(async () => {
  await pool.close();
  rmSync(dir, { recursive: true, force: true });
});

test('a span that changes on the disk is found while readers use it, freed, and fetched again; unused ones are left alone', async () => {
  const { opened, cache, source, close } = await openLazyLayer(layer, join(dir, 'cache'), { pool });
  const { layer: lazy } = opened;
  const found: number[] = [];
  const recheck = new Recheck(cache, pool, (_, span) => found.push(span), 20, 5);
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
    close();
  }
});
