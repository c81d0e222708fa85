import { once } from 'node:events';
import { cachedDataVersionTag } from 'node:v8';
import { Worker } from 'node:worker_threads';
import { expect, it } from 'vitest';
import { collectGarbage } from './index.js';

it('collects in threads that begin at the same moment, and leaves no flag of V8 behind', async () => {
  const tag = cachedDataVersionTag();
  const start = new Int32Array(new SharedArrayBuffer(4));
  const workers = Array.from(
    { length: 8 },
    () =>
      new Worker(
        `const { workerData, parentPort } = require('node:worker_threads');
         import(workerData.module).then(({ collectGarbage }) => {
           let freed = false;
           const registry = new FinalizationRegistry(() => { freed = true; });
           (() => registry.register({ some: 'garbage' }, 0))();
           parentPort.postMessage('ready');
           Atomics.wait(workerData.start, 0, 0);
           collectGarbage();
           setTimeout(() => { parentPort.postMessage(freed ? 'freed' : 'kept'); }, 100);
         });`,
        { eval: true, workerData: { module: new URL('./index.js', import.meta.url).href, start } },
      ),
  );
  await Promise.all(workers.map((worker) => once(worker, 'message')));
  const done = workers.map((worker) => once(worker, 'message'));
  Atomics.store(start, 0, 1);
  Atomics.notify(start, 0);
  expect(await Promise.all(done)).toEqual(workers.map(() => ['freed']));
  collectGarbage();
  expect(cachedDataVersionTag()).toBe(tag);
});
