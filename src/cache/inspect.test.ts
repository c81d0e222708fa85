import { closeSync, mkdtempSync, openSync, rmSync, statSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { compressibleBytes, tarLayer } from '../../test/support/span-layers.js';
import { listCache, summarizeCache, type VerifiedFile, verifyCache } from './inspect.js';
import { SpanCache } from './span-cache.js';

const SPAN = 16 * 1024;

test('ls, stat and verify look at a directory without its owner; verify refuses one that is in use', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'clip-inspect-'));
  try {
    const layer = tarLayer(compressibleBytes(8 * SPAN), SPAN);
    const cache = await SpanCache.open(dir, { maxBytes: 1 << 30, owner: 'clipd' });
    const cached = cache.layer(layer.meta.digest, layer.table);
    for (const span of [0, 2, 3, 5]) {
      cached.hold(span);
      cache.reserve(cached, span, 'anything');
      writeSync(cached.shared.fd, layer.raw, span * SPAN, SPAN, span * SPAN);
      cached.unhold(span);
    }
    expect(summarizeCache(dir)).toMatchObject({
      owner: { pid: process.pid, name: 'clipd' },
      files: 1,
      usedBytes: 4 * SPAN,
    });
    await expect(verifyCache(dir, () => {})).rejects.toEqual(expect.objectContaining({ code: 'BUSY' }));
    cache.close();
    expect(summarizeCache(dir).owner).toBeNull();
    expect(listCache(dir)).toMatchObject([
      { layer: layer.meta.digest, kind: 'tar', spans: 8, layerBytes: 8 * SPAN, usedBytes: 4 * SPAN },
    ]);

    const fd = openSync(cached.path, 'r+');
    writeSync(fd, Buffer.from('!'), 0, 1, 3 * SPAN + 9);
    closeSync(fd);
    const found: VerifiedFile[] = [];
    const told: number[][] = [];
    await verifyCache(
      dir,
      (file) => found.push(file),
      (done, total) => told.push([done, total]),
    );
    expect(told.at(-1)).toEqual([4 * SPAN, 4 * SPAN]);
    expect(found).toMatchObject([{ intact: 3, damaged: 1, absent: 4 }]);
    expect(statSync(cached.path).blocks * 512).toBe(3 * SPAN);
    expect(listCache(join(dir, 'nowhere'))).toEqual([]);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});
