import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { Rest } from './rest.js';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

it('collects in the first pause, and then in pauses after many requests', () => {
  let requests = 0;
  let collected = 0;
  const rest = new Rest(
    () => requests,
    () => collected++,
  );
  const pass = (seconds: number, each = 0): number => {
    for (let i = 0; i < seconds; i++) {
      requests += each;
      vi.advanceTimersByTime(1000);
    }
    return collected;
  };
  expect(pass(10)).toBe(0); // nothing was asked for yet
  expect(pass(5, 20)).toBe(0);
  expect(pass(1)).toBe(0);
  expect(pass(20)).toBe(1);
  pass(1, 500); // few more
  expect(pass(20)).toBe(1);
  pass(1, 600);
  expect(pass(20)).toBe(2);
  rest.stop();
  pass(1, 5000);
  expect(pass(20)).toBe(2);
});
