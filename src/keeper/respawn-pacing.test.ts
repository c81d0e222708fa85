import { expect, test } from 'vitest';
import { RespawnPacing } from './respawn-pacing.js';

test('a server that served is replaced at once, until it dies more often than once a second', () => {
  const pacing = new RespawnPacing(0);
  const delays = Array.from({ length: 152 }, () => {
    pacing.succeeded();
    return pacing.ended(true, 500);
  });
  expect(delays.slice(0, 150)).toEqual(Array(150).fill(0));
  expect(delays.slice(150)).toEqual([1000, 1000]);
  expect(pacing.ended(true, 2500)).toBe(0); // two seconds, two tokens
  expect(pacing.ended(true, 2500)).toBe(0);
  expect(pacing.ended(true, 2500)).toBe(1000);
});

test('a server that does not come up is tried again after twice as long each time, at most 5 s', () => {
  const pacing = new RespawnPacing(0);
  expect(Array.from({ length: 9 }, () => pacing.ended(false, 0))).toEqual([
    0, 100, 200, 400, 800, 1600, 3200, 5000, 5000,
  ]);
  pacing.succeeded();
  expect(pacing.ended(true, 0)).toBe(0);
  expect(pacing.ended(false, 0)).toBe(0); // the first failure is free again
});

test('tokens do not pile up beyond their number', () => {
  const pacing = new RespawnPacing(0);
  const hour = 3_600_000;
  const delays = Array.from({ length: 151 }, () => pacing.ended(true, hour));
  expect(delays.filter((delay) => delay === 0)).toHaveLength(150);
});
