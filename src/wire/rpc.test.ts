import { EventEmitter } from 'node:events';
import { expect, test } from 'vitest';
import { ClipError } from '../bytes/index.js';
import { Rpc } from './rpc.js';

type Methods = {
  double(args: { n: number }): Promise<number>;
  fail(args: null): void;
  never(args: null): Promise<void>;
  unknown(args: null): void;
};

/** Two ends of a channel that delivers copies, in order, later: as Node's IPC channel does. */
function channel(): { readonly ends: [End, End]; readonly disconnect: () => void } {
  const ends: [End, End] = [new End(), new End()];
  ends[0].other = ends[1];
  ends[1].other = ends[0];
  const disconnect = (): void => {
    for (const end of ends) end.emit('disconnect');
  };
  return { ends, disconnect };
}

class End extends EventEmitter {
  other: End | null = null;

  send(message: object, callback?: (error: Error | null) => void): boolean {
    const copy: unknown = JSON.parse(JSON.stringify(message));
    setImmediate(() => {
      this.other?.emit('message', copy);
      callback?.(null);
    });
    return true;
  }
}

function pair(): { readonly rpc: Rpc<Methods>; readonly disconnect: () => void; readonly calls: string[] } {
  const { ends, disconnect } = channel();
  const calls: string[] = [];
  const methods: Partial<Methods> = {
    double: async ({ n }) => {
      calls.push(`double ${n}`);
      return 2 * n;
    },
    fail: () => {
      throw new ClipError('BUSY', 'in use', { hint: 'wait' });
    },
    never: () => new Promise(() => {}),
  };
  new Rpc(ends[1], (name) => methods[name as keyof Methods]);
  return { rpc: new Rpc<Methods>(ends[0], () => undefined), disconnect, calls };
}

test('calls arrive in order, and each gets its own answer', async () => {
  const { rpc, calls } = pair();
  expect(await Promise.all([1, 2, 3].map((n) => rpc.call('double', { n })))).toEqual([2, 4, 6]);
  expect(calls).toEqual(['double 1', 'double 2', 'double 3']);
});

test('an error keeps its code, message and hint; a method that is not there is refused by name', async () => {
  const { rpc } = pair();
  await expect(rpc.call('fail', null)).rejects.toMatchObject({ code: 'BUSY', message: 'in use', hint: 'wait' });
  await expect(rpc.call('unknown', null)).rejects.toMatchObject({ code: 'UNSUPPORTED', message: 'no method unknown' });
});

test('when the other process ends, calls under way and later ones are rejected', async () => {
  const { rpc, disconnect } = pair();
  const waiting = rpc.call('never', null);
  disconnect();
  await expect(waiting).rejects.toMatchObject({ code: 'ABORTED' });
  await expect(rpc.call('double', { n: 1 })).rejects.toMatchObject({ code: 'ABORTED' });
});
