import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { MemoryContentCache } from './memory.js';
import { ContentTier } from './tier.js';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const MIB = 1024 * 1024;

/** A tier whose readers are busy until it is told otherwise. */
function tier(): { put(bytes: number): void; stored(): number; state: { busy: boolean }; content: ContentTier } {
  const state = { busy: true };
  const cache = new MemoryContentCache(1 << 30);
  const content = new ContentTier(cache, { busy: () => state.busy, maxQueueBytes: 8 * MIB });
  let next = 0;
  return {
    put: (bytes) => content.put((next++).toString(16).padStart(64, '0'), new Uint8Array(bytes), 'sha256:layer'),
    stored: () => cache.bytes / MIB,
    state,
    content,
  };
}

test('what was fetched is stored when readers pause', async () => {
  const { put, stored, state } = tier();
  for (let i = 0; i < 5; i++) put(MIB);
  await vi.advanceTimersByTimeAsync(1000);
  expect(stored()).toBe(0);
  state.busy = false;
  await vi.advanceTimersByTimeAsync(400);
  expect(stored()).toBe(0);
  await vi.advanceTimersByTimeAsync(200);
  expect(stored()).toBe(5);
  put(MIB);
  await vi.advanceTimersByTimeAsync(0);
  expect(stored()).toBe(6);
});

test('readers that never pause delay it by two seconds', async () => {
  const { put, stored } = tier();
  put(MIB);
  await vi.advanceTimersByTimeAsync(1900);
  expect(stored()).toBe(0);
  await vi.advanceTimersByTimeAsync(200);
  expect(stored()).toBe(1);
  put(MIB); // a new wait begins
  await vi.advanceTimersByTimeAsync(1900);
  expect(stored()).toBe(1);
  await vi.advanceTimersByTimeAsync(200);
  expect(stored()).toBe(2);
});

test('a queue that is nearly full is not waited with, and nothing is dropped', async () => {
  const { put, stored, content } = tier();
  for (let i = 0; i < 20; i++) {
    expect(content.wants('f'.repeat(64), MIB)).toBe(true);
    put(MIB);
    await vi.advanceTimersByTimeAsync(10);
  }
  expect(stored()).toBeGreaterThanOrEqual(15 - 1);
});
