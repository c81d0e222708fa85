import { deflateRawSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { layerLike } from '../../test/support/gzip.js';
import { DONE, NEED_INPUT, OUT_FULL } from './format.js';
import { Kernel } from './kernel.js';
import { KernelMemory, PRIVATE_SHAPE } from './memory.js';

const LAYOUT = KernelMemory.make(PRIVATE_SHAPE, false);
/** What the kernel may never touch: the gaps between its buffers (assembly/layout.ts, memory.ts). */
const GUARDS: readonly (readonly [number, number])[] = [
  [0, 0x100], // below the state
  [0x1000, 0x2000], // between the state and the block header
  [0x20000, 0x20040], // between the window and the output
  [LAYOUT.outEnd(0) + 64, LAYOUT.slotStart(0)], // beyond the output and what a copy may overshoot
  [LAYOUT.slotStart(0) + PRIVATE_SHAPE.inBytes, LAYOUT.bytes.length], // beyond the input
];

function guard(kernel: Kernel): () => void {
  for (const [from, to] of GUARDS) kernel.memory.fill(0xa5, from, to);
  return () => {
    for (const [from, to] of GUARDS) {
      const touched = kernel.memory.subarray(from, to).findIndex((byte) => byte !== 0xa5);
      expect(touched === -1 ? 'untouched' : `touched at 0x${(from + touched).toString(16)}`).toBe('untouched');
    }
  };
}

/** Feeds `input` and takes output by `room`; returns the last status and the output. */
function drive(kernel: Kernel, input: Uint8Array, step: number, room: number): { status: number; output: Buffer } {
  const views: Uint8Array[] = [];
  let status = NEED_INPUT;
  for (let at = 0; at < input.length && status === NEED_INPUT; ) {
    at += kernel.append(input.subarray(0, Math.min(input.length, at + step)), at);
    do status = kernel.run(room, (view) => views.push(view.slice()));
    while (status === OUT_FULL);
  }
  return { status, output: Buffer.concat(views) };
}

describe('kernel', () => {
  const data = layerLike(700_000, 3);
  const streams = [deflateRawSync(data), deflateRawSync(data, { level: 0 }), deflateRawSync(Buffer.alloc(900_000))];

  test('stays within its buffers on good streams, whatever the room', () => {
    for (const stream of streams) {
      for (const [step, room] of [
        [1 << 20, 1 << 20],
        [1000, 777],
        [65536, 262143],
        [33, 1 << 20],
      ] as const) {
        const kernel = new Kernel();
        const check = guard(kernel);
        const { status } = drive(kernel, stream, step, room);
        expect(status).toBe(DONE);
        check();
      }
    }
  });

  test('stops and resumes at every byte of output', () => {
    const bytes = layerLike(3000, 9);
    const stream = deflateRawSync(bytes);
    for (const room of [1, 2, 3, 7]) {
      const { status, output } = drive(new Kernel(), stream, stream.length, room);
      expect(status).toBe(DONE);
      expect(output.equals(bytes)).toBe(true);
    }
  });

  test('stays within its buffers on noise and on damaged streams', () => {
    const kernel = new Kernel();
    const check = guard(kernel);
    let state = 1;
    const next = (): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state >>> 8;
    };
    for (let i = 0; i < 3000; i++) {
      kernel.reset();
      const bad = i % 2 === 0 ? Buffer.from(streams[0]!.subarray(0, 20_000)) : Buffer.alloc(300);
      if (i % 2 === 0) for (let n = next() % 5; n >= 0; n--) bad[next() % bad.length]! ^= 1 << (next() % 8);
      else for (let n = 0; n < bad.length; n++) bad[n] = next();
      // Noise mostly fails on its first block type; these get further.
      if (i % 4 === 1) bad[0] = (bad[0]! & 0xf8) | 5;
      drive(kernel, bad, bad.length, 100_000);
    }
    check();
  });

  test('its memory is less than a mebibyte and does not grow', () => {
    const kernel = new Kernel();
    drive(kernel, streams[0]!, 1 << 20, 1 << 20);
    expect(kernel.memory.length).toBe(LAYOUT.bytes.length);
    expect(kernel.memory.length).toBeLessThan(1 << 20);
  });
});
