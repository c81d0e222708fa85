import { Worker } from 'node:worker_threads';
import { expect, test, vi } from 'vitest';
import { compressibleBytes, tarLayer } from '../../test/support/span-layers.js';
import { NO_STATE } from '../gzip/index.js';
import { InflatePool } from './inflate-pool.js';
import { type InflateTask, Priority } from './inflate-tasks.js';

test('a pool that is closed ends its threads without terminating them, which Node 20 may abort over', async () => {
  const terminate = vi.spyOn(Worker.prototype, 'terminate');
  const { raw, table } = tarLayer(compressibleBytes(1 << 20), 1 << 20);
  const compressed = new Uint8Array(new SharedArrayBuffer(raw.length));
  compressed.set(raw);
  const task: InflateTask = {
    type: 'inflate',
    kind: 'tar',
    compressed,
    sha256: table.sha256.subarray(0, 32),
    startBit: 0,
    state: NO_STATE,
    outLength: raw.length,
    crc32: table.crc32[0]!,
    blocks: null,
    target: { fd: -1, position: 0, span: 0, generations: new Int32Array(new SharedArrayBuffer(4)) },
  };
  const pool = new InflatePool({ workers: 2 });
  expect(await pool.run(task, Priority.demand, pool)).toMatchObject({ status: 'bytes' });
  const running = Array.from({ length: 5 }, () => pool.run(task, Priority.demand, pool));
  const results = Promise.allSettled(running);
  await pool.close();
  for (const result of await results) expect(result).toMatchObject({ status: 'rejected', reason: { code: 'ABORTED' } });
  await expect(pool.run(task, Priority.demand, pool)).rejects.toMatchObject({ code: 'ABORTED' });
  expect(terminate).not.toHaveBeenCalled();
  terminate.mockRestore();
});
