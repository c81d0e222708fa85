import { Worker } from 'node:worker_threads';
import { expect, it } from 'vitest';
import { LEADERSHIP_WORDS, Leadership } from './leadership.js';

const shared = (): Int32Array => new Int32Array(new SharedArrayBuffer(LEADERSHIP_WORDS * 4));

/** A thread that parks whenever it cannot lead, and says "leads" when it can. */
function follower(words: Int32Array): { says: Promise<string>; thread: Worker } {
  const thread = new Worker(
    `const { parentPort, workerData } = require('node:worker_threads');
     import(workerData.module).then(({ Leadership }) => {
       const me = new Leadership(workerData.words, 2);
       let parks = 0;
       for (;;) {
         const ticket = me.ticket();
         if (me.lead()) break;
         parks++;
         me.park(ticket);
       }
       parentPort.postMessage('leads after parking ' + parks);
     });`,
    { eval: true, workerData: { words, module: new URL('./leadership.js', import.meta.url).href } },
  );
  return { thread, says: new Promise((resolve) => thread.once('message', resolve)) };
}

const PARKED = 2;
async function parked(words: Int32Array): Promise<void> {
  while (Atomics.load(words, PARKED) === 0) await new Promise((resolve) => setTimeout(resolve, 1));
}

it('has one leader, who keeps the lead until it gives it away', () => {
  const words = shared();
  const one = new Leadership(words, 1);
  const two = new Leadership(words, 2);
  expect([one.lead(), two.lead(), one.lead()]).toEqual([true, false, true]);
  two.abdicate(); // not its to give
  expect(two.lead()).toBe(false);
  one.abdicate();
  expect([two.lead(), one.lead()]).toEqual([true, false]);
});

it('wakes a parked worker for a free lead, and for help', async () => {
  const words = shared();
  const one = new Leadership(words, 1);
  one.lead();
  const { says } = follower(words);
  await parked(words);
  one.callHelper(); // finds the lead taken, and parks again
  await parked(words);
  one.abdicate();
  expect(await says).toMatch(/leads after parking [12]/);
  expect(one.lead()).toBe(false);
});

it('does not sleep through a call that came between looking for work and parking', () => {
  const words = shared();
  new Leadership(words, 1).lead();
  const two = new Leadership(words, 2);
  const ticket = two.ticket();
  Leadership.callAll(words);
  two.park(ticket); // would hang
});
