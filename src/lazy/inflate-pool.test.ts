import { Worker } from 'node:worker_threads';
import { expect, test, vi } from 'vitest';
import { compressibleBytes, tarLayer } from '../../test/support/span-layers.js';
import { NO_STATE } from '../gzip/index.js';
import { InflatePool } from './inflate-pool.js';
import { type InflateTask, Priority } from './inflate-tasks.js';

/** A task of so many bytes, whose output goes to memory. */
function taskOf(bytes: number): InflateTask {
  const { raw, table } = tarLayer(compressibleBytes(bytes), bytes);
  const compressed = new Uint8Array(new SharedArrayBuffer(raw.length));
  compressed.set(raw);
  return {
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
}

test('a pool that is closed ends its threads without terminating them, which Node 20 may abort over', async () => {
  const terminate = vi.spyOn(Worker.prototype, 'terminate');
  const task = taskOf(1 << 20);
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

test('what a reader waits for is done before what was given to a worker ahead of readers', async () => {
  const pool = new InflatePool({ workers: 1 });
  try {
    const task = taskOf(1 << 20);
    await pool.run(task, Priority.demand, pool); // the worker has booted
    const order: string[] = [];
    const run = async (name: string, priority: Priority): Promise<void> => {
      await pool.run({ ...task }, priority, pool);
      order.push(name);
    };
    // The worker has the first two at once; the third may come while the first one runs.
    await Promise.all([
      run('first', Priority.readahead),
      run('second', Priority.readahead),
      run('third', Priority.readahead),
      run('reader', Priority.demand),
    ]);
    expect(order.indexOf('reader')).toBeLessThan(order.indexOf('second'));
    expect(order.filter((name) => name !== 'reader')).toEqual(['first', 'second', 'third']);
  } finally {
    await pool.close();
  }
});

test('a task that a reader comes to wait for goes before others that wait', async () => {
  const pool = new InflatePool({ workers: 1 });
  try {
    const [large, task] = [taskOf(32 << 20), taskOf(1 << 20)];
    const order: string[] = [];
    const run = async (name: string, of: InflateTask): Promise<void> => {
      await pool.run(of, Priority.readahead, pool);
      order.push(name);
    };
    const raised = { ...task };
    const all = [run('large', large), run('before', { ...task }), run('raised', raised)];
    pool.raise(raised, Priority.demand);
    await Promise.all(all);
    expect(order.indexOf('raised')).toBeLessThan(order.indexOf('before'));
  } finally {
    await pool.close();
  }
});
