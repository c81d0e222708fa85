import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { KEEP_AFTER_MS } from '../loader/index.js';
import { FetchingCode } from './fetching-code.js';

const KEEP = Symbol.for('clip.keepCode');
const loader = globalThis as { [KEEP]?: unknown };
const depths: number[] = [];
let others = 0;

beforeEach(() => {
  vi.useFakeTimers();
  depths.length = 0;
  others = 0;
  loader[KEEP] = (depth: number) => depths.push(depth);
});
afterEach(() => {
  vi.useRealTimers();
  delete loader[KEEP];
});

test('the code of fetching is kept once, a while after the first fetch', () => {
  const code = new FetchingCode(() => others++);
  code.unmounted();
  vi.runAllTimers();
  expect(depths).toEqual([]);
  code.used();
  vi.advanceTimersByTime(KEEP_AFTER_MS - 1);
  expect(depths).toEqual([]);
  vi.advanceTimersByTime(1);
  expect([depths, others]).toEqual([[1], 1]);
  code.used();
  code.unmounted();
  vi.runAllTimers();
  expect([depths, others]).toEqual([[1], 1]);
});

test('the code of fetching is kept when an image is unmounted before', () => {
  const code = new FetchingCode(() => others++);
  code.used();
  code.unmounted();
  code.unmounted();
  vi.advanceTimersByTime(0);
  expect([depths, others]).toEqual([[1], 1]);
  vi.runAllTimers();
  expect([depths, others]).toEqual([[1], 1]);
});
