import { spawnSync } from 'node:child_process';
import { expect, test, vi } from 'vitest';
import { ClipError } from '../bytes/index.js';
import { Errno } from '../linux/index.js';
import { silentLogger } from '../metrics/index.js';
import { TransientError } from '../oci/index.js';
import { MAX_READS, type Piece, type ReadSource, Reads } from './reads.js';

/** A mount whose fetches end when the test says so. */
class FakeSource implements ReadSource {
  readTimeoutMs = 60_000;
  readonly replies: [bigint, string | number][] = [];
  readonly fetches: {
    piece: Piece;
    signal: AbortSignal;
    resolve(bytes: Uint8Array): void;
    reject(error: Error): void;
  }[] = [];
  pieces: (offset: number, size: number) => Piece[] = (offset, size) => [
    { layer: 0, layerOffset: offset, length: size, file: undefined },
  ];

  map(_nid: number, offset: number, size: number): Piece[] {
    return this.pieces(offset, size);
  }
  read(piece: Piece, signal: AbortSignal): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      this.fetches.push({ piece, signal, resolve, reject });
      signal.addEventListener('abort', () => reject(new ClipError('ABORTED', 'nobody waits')));
    });
  }
  replyData(unique: bigint, pieces: Uint8Array[]): void {
    this.replies.push([unique, Buffer.concat(pieces).toString('latin1')]);
  }
  replyError(unique: bigint, errno: number): void {
    this.replies.push([unique, errno]);
  }
}

const make = (): { source: FakeSource; reads: Reads } => {
  const source = new FakeSource();
  return { source, reads: new Reads(source, silentLogger()) };
};
const tick = (ms = 1): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

test('layers and holes are put together in order', async () => {
  const { source, reads } = make();
  source.pieces = () => [
    { layer: 1, layerOffset: 100, length: 2, file: undefined },
    { layer: -1, layerOffset: 0, length: 3, file: undefined },
    { layer: 0, layerOffset: 0, length: 1, file: undefined },
  ];
  reads.start(7n, 40, 0, 6);
  source.fetches[1]!.resolve(Buffer.from('c'));
  source.fetches[0]!.resolve(Buffer.from('ab'));
  await tick();
  expect(source.replies).toEqual([[7n, 'ab\0\0\0c']]);
  expect(reads.inFlight).toBe(0);
});

test('an interrupted read is answered at once, once, and its fetch given up', async () => {
  const { source, reads } = make();
  reads.start(1n, 40, 0, 4096);
  expect(reads.interrupt(2n)).toBe(false);
  expect(reads.interrupt(1n)).toBe(true);
  expect(source.replies).toEqual([[1n, Errno.EINTR]]);
  expect(source.fetches[0]!.signal.aborted).toBe(true);
  await tick();
  expect(reads.interrupt(1n)).toBe(false);
  expect(source.replies).toHaveLength(1);
  expect(reads.counters).toMatchObject({ reads: 1, interrupted: 1, errors: 0 });
});

test('after the read timeout it is EIO, and the bytes that come later are nobody’s', async () => {
  const { source, reads } = make();
  source.readTimeoutMs = 10;
  reads.start(1n, 40, 0, 4096);
  await tick(30);
  expect(source.replies).toEqual([[1n, Errno.EIO]]);
  source.fetches[0]!.resolve(Buffer.from('late'));
  await tick();
  expect(source.replies).toHaveLength(1);
  expect(reads.counters.timedOut).toBe(1);
});

test('the page that the kernel asks for again when its read-ahead timed out is not waited for a second time', async () => {
  const { source, reads } = make();
  source.readTimeoutMs = 10;
  reads.start(1n, 40, 8192, 131_072);
  await tick(30);
  reads.start(2n, 40, 12_288, 4096);
  expect(source.replies).toEqual([
    [1n, Errno.EIO],
    [2n, Errno.EIO],
  ]);
  // The reader has its error now; a read of its own, of another file or beyond is tried.
  source.readTimeoutMs = 60_000;
  reads.start(3n, 40, 12_288, 4096);
  reads.start(4n, 41, 8192, 4096);
  reads.start(5n, 40, 8192 + 131_072, 4096);
  for (const fetch of source.fetches.slice(1)) fetch.resolve(Buffer.from('x'));
  await tick();
  expect(source.replies.slice(2).map(([unique, reply]) => [unique, reply])).toEqual([
    [3n, 'x'],
    [4n, 'x'],
    [5n, 'x'],
  ]);
});

test('a registry that is away is asked again until the read timeout', async () => {
  const { source, reads } = make();
  reads.start(1n, 40, 0, 10);
  source.fetches[0]!.reject(new TransientError('503', {}));
  await vi.waitUntil(() => source.fetches.length === 2);
  expect(source.replies).toEqual([]);
  source.fetches[1]!.resolve(Buffer.from('x'));
  await vi.waitUntil(() => source.replies.length === 1);
  expect(source.replies).toEqual([[1n, 'x']]);

  source.readTimeoutMs = 10;
  reads.start(2n, 40, 0, 10);
  source.fetches[2]!.reject(new TransientError('503', {}));
  await vi.waitUntil(() => source.replies.length === 2);
  expect(source.replies[1]).toEqual([2n, Errno.EIO]);
  await reads.stopped();
  expect(source.fetches).toHaveLength(3);
  expect(reads.counters).toMatchObject({ errors: 0, timedOut: 1 });
});

test('errors of the source, of the tree and of nobody we know are EIO', async () => {
  const { source, reads } = make();
  reads.start(1n, 40, 0, 10);
  source.fetches[0]!.reject(new ClipError('NETWORK', 'registry is gone'));
  reads.start(2n, 40, 0, 10);
  source.fetches[1]!.reject(new TypeError('a bug'));
  source.pieces = () => {
    throw new ClipError('BAD_FORMAT', 'tree');
  };
  reads.start(3n, 40, 0, 10);
  await tick();
  expect(new Map(source.replies)).toEqual(
    new Map([
      [1n, Errno.EIO],
      [2n, Errno.EIO],
      [3n, Errno.EIO],
    ]),
  );
  expect(reads.counters.errors).toBe(3);
});

test('beyond MAX_READS they wait their turn, and may be interrupted there', async () => {
  const { source, reads } = make();
  for (let i = 0; i < MAX_READS + 3; i++) reads.start(BigInt(i), 40, i, 1);
  expect(source.fetches).toHaveLength(MAX_READS);
  expect(reads.interrupt(BigInt(MAX_READS))).toBe(true);
  source.fetches[0]!.resolve(Buffer.from('x'));
  await tick();
  expect(source.fetches.map((f) => f.piece.layerOffset).at(-1)).toBe(MAX_READS + 1);
  for (let done = 1; done < source.fetches.length; done++) {
    source.fetches[done]!.resolve(Buffer.from('y'));
    await tick(0);
  }
  await tick();
  expect(source.replies).toHaveLength(MAX_READS + 3);
  expect(reads.counters.queued).toBe(3);
});

test('abandoned reads are not answered: another server will be asked', async () => {
  const { source, reads } = make();
  reads.start(1n, 40, 0, 10);
  reads.abandon();
  await reads.stopped();
  expect(source.replies).toEqual([]);
});

test('a read of many extents gives its fetches one signal, and Node no reason to warn', async () => {
  const { source, reads } = make();
  source.pieces = () =>
    Array.from({ length: 40 }, (_, i) => ({ layer: 0, layerOffset: i, length: 1, file: undefined }));
  const warnings: Error[] = [];
  const onWarning = (warning: Error): number => warnings.push(warning);
  process.on('warning', onWarning);
  reads.start(1n, 40, 0, 40);
  expect(source.fetches).toHaveLength(40);
  for (const fetch of source.fetches) fetch.resolve(Buffer.from('x'));
  await tick(20);
  process.off('warning', onWarning);
  expect(source.replies).toEqual([[1n, 'x'.repeat(40)]]);
  expect(warnings).toEqual([]);
});

test('the read of a thread that has died ends, and its fetch with it; that of a living one goes on', async () => {
  vi.useFakeTimers();
  try {
    const { source, reads } = make();
    // A process that has ended and that its parent, this process, has reaped.
    const { pid } = spawnSync('true');
    reads.start(1n, 40, 0, 4096, pid);
    reads.start(2n, 40, 4096, 4096, process.pid);
    await vi.advanceTimersByTimeAsync(2500);
    expect(source.replies).toEqual([[1n, Errno.EINTR]]);
    expect(source.fetches.map(({ signal }) => signal.aborted)).toEqual([true, false]);
    expect(reads.counters.interrupted).toBe(1);
    source.fetches[1]!.resolve(Buffer.from('late'));
    await vi.advanceTimersByTimeAsync(1);
    expect(source.replies[1]).toEqual([2n, 'late']);
  } finally {
    vi.useRealTimers();
  }
});
