import { closeSync, existsSync, mkdtempSync, openSync, readSync, rmSync, statSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { compressibleBytes, tarLayer } from '../../test/support/span-layers.js';
import { publish } from '../spans/index.js';
import type { CachedLayer } from './cached-layer.js';
import { SpanCache } from './span-cache.js';

// A sealed file is in the kernel's hands: whatever the cache does, its bytes stay.

const SPAN = 32 * 1024;
const { meta, table, raw } = tarLayer(compressibleBytes(8 * SPAN), SPAN);
let dir: string;
let cache: SpanCache;
/** As the kernel has it. */
let kernel = -1;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'clip-sealed-'));
  cache = await SpanCache.open(dir, { maxBytes: 40 * SPAN });
});
afterEach(() => {
  if (kernel >= 0) closeSync(kernel);
  kernel = -1;
  cache.close();
  rmSync(dir, { recursive: true, force: true });
});

function fill(layer: CachedLayer, span: number): void {
  layer.hold(span);
  expect(cache.reserve(layer, span, 'anything')).toBe(true);
  const [start, end] = [layer.shared.offsets[span]!, layer.shared.offsets[span + 1]!];
  writeSync(layer.shared.fd, raw, start, end - start, start);
  publish({ fd: layer.shared.fd, position: start, span, generations: layer.shared.generations });
  layer.unhold(span);
}

async function sealedLayer(): Promise<CachedLayer> {
  const layer = cache.layer(meta.digest, table);
  for (let span = 0; span < layer.count; span++) fill(layer, span);
  await cache.seal(layer);
  kernel = openSync(layer.path, 'r');
  return layer;
}

function expectIntact(): void {
  const bytes = Buffer.alloc(raw.length);
  expect(readSync(kernel, bytes, 0, bytes.length, 0)).toBe(raw.length);
  expect(bytes.equals(raw)).toBe(true);
}

test('a layer is sealed when it is complete, and not before', async () => {
  const layer = cache.layer(meta.digest, table);
  fill(layer, 0);
  await cache.seal(layer);
  expect([layer.sealed, statSync(layer.path).mode & 0o777]).toEqual([false, 0o600]);
  for (let span = 1; span < layer.count; span++) fill(layer, span);
  await cache.seal(layer);
  expect([layer.sealed, statSync(layer.path).mode & 0o777]).toEqual([true, 0o400]);
  expect(() => writeSync(layer.shared.fd, 'x', 0)).toThrow(/EBADF/);
});

test('nothing of it is evicted while it is mounted; unmounted it goes as a whole', async () => {
  const layer = await sealedLayer();
  expect(cache.prune(0)).toBe(0);
  cache.discard(layer, 2);
  expectIntact();
  const { path } = layer;
  layer.damaged = false;
  cache.release(layer);
  expect(existsSync(path)).toBe(true);
  // Less than a file is asked for: another one would be cut from its end.
  cache.prune(6 * SPAN);
  expect(existsSync(path)).toBe(false);
  expectIntact();
});

test('opened again by the same process it is complete; by another one its bytes are checked first', async () => {
  cache.release(await sealedLayer());
  const again = cache.layer(meta.digest, table);
  expect([again.sealed, again.complete]).toEqual([true, true]);
  cache.release(again);
  cache.close();
  cache = await SpanCache.open(dir, { maxBytes: 40 * SPAN });
  const next = cache.layer(meta.digest, table);
  expect([next.sealed, next.complete, next.unverified(0)]).toEqual([true, false, true]);
  expect(cache.prune(0)).toBe(0);
  expectIntact();
});

test('one that is damaged is not written to, but replaced after its last mount', async () => {
  const layer = await sealedLayer();
  layer.hide(3);
  expect(cache.reserve(layer, 3, 'anything')).toBe(false);
  expectIntact();
  const { path } = layer;
  cache.release(layer);
  expect(existsSync(path)).toBe(false);
  expectIntact();
});

test('sealed layers take half of the cache at most, because they cannot be evicted', async () => {
  cache.close();
  cache = await SpanCache.open(dir, { maxBytes: 15 * SPAN });
  const layer = cache.layer(meta.digest, table);
  for (let span = 0; span < layer.count; span++) fill(layer, span);
  await cache.seal(layer);
  expect(layer.sealed).toBe(false);
});
