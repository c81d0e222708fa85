import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { expect, it } from 'vitest';
import { MountHits } from './mount-hits.js';

it('counts the hits of all workers, and says when the first one was', async () => {
  const started = performance.now(); // before the view is made, for `first` counts from then
  const hits = new MountHits();
  expect(hits).toMatchObject({ count: 0, first: null });
  // In a thread, whose performance.now() begins with the thread.
  const worker = new Worker(
    `const { workerData, parentPort } = require('node:worker_threads');
     import(workerData.module).then(({ MountHits }) => {
       const hits = new MountHits(workerData.shared);
       for (let i = 0; i < 3; i++) hits.add(2);
       parentPort.postMessage(null);
     });`,
    { eval: true, workerData: { module: new URL('./mount-hits.js', import.meta.url).href, shared: hits.shared } },
  );
  await once(worker, 'message');
  const first = hits.first!;
  expect(first).toBeGreaterThan(0);
  expect(first).toBeLessThanOrEqual(performance.now() - started + 1);
  hits.add(1);
  hits.add(64);
  expect(hits).toMatchObject({ count: 5, first });
  await worker.terminate();
});
