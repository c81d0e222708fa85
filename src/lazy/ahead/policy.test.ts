import { expect, test } from 'vitest';
import {
  aheadRequest,
  evidenceAt,
  evidenceOfCode,
  joinGap,
  mayBeComing,
  mayComeBefore,
  mayLieUnread,
  partGap,
  pays,
  probabilityOf,
  profileComing,
  profileRequest,
  Record,
} from './policy.js';

/** A span of the default size as most layers compress it. */
const [COMPRESSED, INFLATED] = [450_000, 2 * 1024 * 1024];
const GIGABIT = { known: true, roundTripMs: 20, bytesPerMs: 125_000 };
const SLOW = { known: true, roundTripMs: 20, bytesPerMs: 1_250 };
const NEAR = { known: true, roundTripMs: 5, bytesPerMs: 25_000 };
const TEN = { known: true, roundTripMs: 5, bytesPerMs: 1_250_000 };

const near = (...distances: number[]): number => distances.reduce((sum, d) => sum + evidenceAt(d, false), 0);
const same = (...distances: number[]): number => distances.reduce((sum, d) => sum + evidenceAt(d, true), 0);

test('the rest of a file that is read here and there is likely, and neighbours in other files where much was read', () => {
  const fresh = new Record();
  expect(probabilityOf(same(4), fresh)).toBeCloseTo(0.3);
  expect(probabilityOf(same(20, 30, 40), fresh)).toBeGreaterThan(0.3);
  expect(probabilityOf(near(1), fresh)).toBeCloseTo(0.12);
  expect(probabilityOf(near(1, 2, 3), fresh)).toBeGreaterThan(0.2);
  expect(probabilityOf(near(1, 1, 2, 2, 3, 3), fresh)).toBeGreaterThan(0.35);
  // A walk: eight neighbours in a row.
  expect(probabilityOf(near(1, 2, 3, 4, 5, 6, 7, 8), fresh)).toBeGreaterThan(0.48);
  expect(near(9)).toBe(0);
});

test('a request for what readers may come to has what the link carries in a round trip', () => {
  expect(aheadRequest(GIGABIT)).toBe(2_500_000);
  expect(aheadRequest(SLOW)).toBe(25_000);
  expect(aheadRequest(TEN)).toBe(3 * 1024 * 1024);
  expect(aheadRequest({ ...SLOW, known: false })).toBe(1280 * 1024);
});

test('the code of a program that was opened is likely; of a very large one nothing is guessed', () => {
  const fresh = new Record();
  const p = probabilityOf(evidenceOfCode(12 * 1024 * 1024), fresh);
  expect(p).toBeCloseTo(0.8);
  expect(pays(p, COMPRESSED, INFLATED, SLOW)).toBe(true);
  expect(pays(probabilityOf(evidenceOfCode(36 * 1024 * 1024), fresh), COMPRESSED, INFLATED, GIGABIT)).toBe(false);
});

test('a guess pays by what the link costs', () => {
  const threshold = (link: typeof GIGABIT): number => {
    for (let p = 0; p <= 1; p += 0.01) if (pays(p, COMPRESSED, INFLATED, link)) return p;
    return 1;
  };
  expect(threshold(GIGABIT)).toBeCloseTo(0.44); // two reads of the same file are enough, one is not
  expect(threshold(NEAR)).toBeGreaterThan(0.35);
  expect(threshold(SLOW)).toBeGreaterThan(0.45);
  expect(threshold({ known: true, roundTripMs: 200, bytesPerMs: 125_000 })).toBeCloseTo(0.44);
  // Were the link free, the worker would not be.
  expect(threshold(TEN)).toBeGreaterThan(0.25);
});

test('what may be wasted is less than a span on a slow link, and bounded on a fast one', () => {
  expect(mayLieUnread(SLOW, 0, 0)).toBeLessThan(COMPRESSED);
  expect(mayLieUnread(NEAR, 0, 0)).toBeGreaterThan(COMPRESSED);
  expect(mayLieUnread(GIGABIT, 0, 0)).toBe(6_000_000);
  expect(mayLieUnread(TEN, 0, 0)).toBe(6_000_000);
  // Success is given more room.
  expect(mayLieUnread(GIGABIT, 10_000_000, 0)).toBe(11_000_000);
});

test('as much may be on its way as the link carries in a round trip', () => {
  expect(mayBeComing(GIGABIT)).toBe(2_500_000);
  expect(mayBeComing({ known: true, roundTripMs: 300, bytesPerMs: 1_250_000 })).toBe(8_000_000);
});

test('guesses that prove useless are soon not made any more, and a few right ones bring them back', () => {
  const record = new Record();
  for (let i = 0; i < 60; i++) record.settle(0.3, false);
  expect(record.trust).toBeLessThan(0.15);
  expect(pays(probabilityOf(same(1, 2), record), COMPRESSED, INFLATED, GIGABIT)).toBe(false);
  for (let i = 0; i < 40; i++) record.settle(0.3, true);
  expect(record.trust).toBeGreaterThan(1);
});

test('a later answer is taken when earlier ones have less to come than the link carries until it flows', () => {
  expect(mayComeBefore(GIGABIT)).toBe(3_750_000);
  // Before the link was measured all that may be on its way.
  expect(mayComeBefore({ ...SLOW, known: false })).toBe(profileComing({ ...SLOW, known: false }));
});

test('the gap that a request goes across is what it was measured to be, and follows the link', () => {
  expect(joinGap(GIGABIT)).toBeCloseTo(192 * 1024, -4);
  expect(joinGap(SLOW)).toBe(64 * 1024);
  expect(joinGap({ ...SLOW, known: false })).toBe(192 * 1024);
  expect(joinGap({ known: true, roundTripMs: 100, bytesPerMs: 1_250_000 })).toBe(1024 * 1024);
});

test('requests for several ranges follow the link: its round trip in one, and two on their way', () => {
  const MIB = 1024 * 1024;
  const UNKNOWN = { ...GIGABIT, known: false, bytesPerMs: 12_500 };
  expect([SLOW, NEAR, UNKNOWN].map(profileRequest)).toEqual([1.25 * MIB, 1.25 * MIB, 1.25 * MIB]);
  expect([GIGABIT, TEN].map(profileRequest)).toEqual([2_500_000, 3 * MIB]);
  for (const link of [SLOW, NEAR]) expect(profileComing(link)).toBe(1.5 * profileRequest(link));
  expect([UNKNOWN, GIGABIT, TEN].map(profileComing)).toEqual([3 * MIB, 7_500_000, 8 * MIB]);
  expect([SLOW, NEAR, GIGABIT, TEN, UNKNOWN].map(partGap)).toEqual([4096, 12_500, 62_500, 262_144, 32_768]);
});
