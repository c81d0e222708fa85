import { describe, expect, test } from 'vitest';
import { PROFILE_FORMAT, parseProfile, type RecordedProfile, type TouchedRange } from './profile.js';
import { addStart, expectedRanges, MAX_RANGES } from './profile-merge.js';

const MIB = 1024 * 1024;

function start(...ranges: readonly [start: number, end: number, layer?: number][]): RecordedProfile {
  return {
    format: PROFILE_FORMAT,
    manifestDigest: 'sha256:1',
    layers: ['a', 'b'],
    ranges: ranges.map(([from, end, layer = 0]) => ({ layer, start: from * MIB, end: Math.round(end * MIB) })),
  };
}

function sumOf(...starts: readonly RecordedProfile[]): RecordedProfile {
  let sum: RecordedProfile | null = null;
  for (const one of starts) sum = addStart(sum, one);
  return sum!;
}

const places = (ranges: readonly TouchedRange[]): number[][] =>
  ranges.map(({ start: from, end, layer }) => [from / MIB, end / MIB, layer]);

describe('a profile of several starts', () => {
  test('is the start itself when there was but one, and the same again after equal ones', () => {
    const one = start([8, 10], [0, 1, 1], [2, 3]);
    for (const sum of [sumOf(one), sumOf(one, one, one), sumOf(...Array<RecordedProfile>(40).fill(one))]) {
      expect(places(expectedRanges(sum))).toEqual(places(one.ranges));
      expect(sum.starts).toBeLessThanOrEqual(16);
    }
    expect(sumOf(one, one, one).starts).toBe(3);
  });

  test('begins with what most starts read first; what one alone read comes last, and is left out when it is rare', () => {
    const [usual, odd] = [start([8, 10], [0, 1], [2, 3]), start([20, 24], [8, 10], [0, 1], [2, 3])];
    const four = sumOf(usual, usual, usual, odd);
    expect(places(four.ranges)).toEqual([
      [8, 10, 0],
      [0, 1, 0],
      [2, 3, 0],
      [20, 24, 0],
    ]);
    expect(expectedRanges(four)).toHaveLength(4);
    const five = sumOf(usual, usual, usual, odd, usual);
    expect(five.ranges).toHaveLength(4);
    expect(places(expectedRanges(five))).toEqual([
      [8, 10, 0],
      [0, 1, 0],
      [2, 3, 0],
    ]);
  });

  test('follows a program that has changed, and forgets what it read before', () => {
    const [before, after] = [start([0, 4]), start([10, 14])];
    let sum = sumOf(...Array<RecordedProfile>(16).fill(before));
    for (let i = 0; i < 6; i++) sum = addStart(sum, after);
    expect(places(expectedRanges(sum))).toContainEqual([10, 14, 0]);
    for (let i = 0; i < 80; i++) sum = addStart(sum, after);
    expect(places(sum.ranges)).toEqual([[10, 14, 0]]);
  });

  test('cuts ranges where they overlap, and joins what differs by little', () => {
    const sum = sumOf(start([0, 2]), start([1, 3]));
    expect(places(sum.ranges)).toEqual([
      [1, 2, 0],
      [0, 1, 0],
      [2, 3, 0],
    ]);
    const KIB = 1 / 1024;
    const near = sumOf(start([1, 2]), start([1 - 16 * KIB, 2 + 16 * KIB]), start([1, 2 + 8 * KIB]));
    expect(places(near.ranges)).toEqual([[1 - 16 * KIB, 2 + 16 * KIB, 0]]);
  });

  test('has a bound, and is what a profile file may hold', () => {
    const many = start(...Array.from({ length: MAX_RANGES + 10 }, (_, i): [number, number] => [i, i + 0.1]));
    const sum = addStart(null, many);
    expect(sum.ranges).toHaveLength(MAX_RANGES);
    expect(parseProfile(JSON.stringify(sum), 'p')).toEqual(sum);
    const text = JSON.stringify(sumOf(start([0, 1]), start([0, 1])));
    expect(text).toContain('"starts":2');
    for (const [from, to] of [
      ['"starts":2,"at"', '"starts":3,"at"'],
      ['"starts":2,"at"', '"starts":-1,"at"'],
      ['"at":0', '"at":2'],
      ['"at":0', '"at":null'],
      [/"starts":2(?=,"ranges")/, '"starts":1e9'],
      [/"starts":2(?=,"ranges")/, '"starts":"2"'],
    ] as const) {
      expect(text.replace(from, to)).not.toBe(text);
      expect(() => parseProfile(text.replace(from, to), 'p')).toThrow(/^p: /);
    }
  });
});
