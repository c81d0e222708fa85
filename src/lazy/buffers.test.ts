import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { BufferPool } from './buffers.js';

beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] }));
afterEach(() => void vi.useRealTimers());

test('buffers are used again, and let go after a pause', () => {
  let idle = 0;
  const pool = new BufferPool(() => idle++);
  const first = pool.acquire(300_000);
  expect(first.byteLength).toBe(512 * 1024);
  pool.release(first);
  vi.advanceTimersByTime(1500);
  const again = pool.acquire(400_000);
  expect(again).toBe(first);
  pool.release(again);
  vi.advanceTimersByTime(1500);
  expect(idle).toBe(0);
  vi.advanceTimersByTime(1500);
  expect(idle).toBe(1);
  expect(pool.acquire(400_000)).not.toBe(first);
  // Nothing was given back since.
  vi.advanceTimersByTime(60_000);
  expect(idle).toBe(1);
});
