import { expect, test } from 'vitest';
import { type Ahead, Walks } from './walks.js';

const followed = (spans: readonly number[]): (Ahead | null)[] => {
  const walks = new Walks();
  return spans.map((span) => walks.note(span));
};

test('spans in a row are a walk, in either direction, and it is followed twice as far with each', () => {
  const up = followed([10, 11, 12, 13, 14, 15, 16, 17]);
  expect(up[0]).toBeNull();
  expect(up.slice(1).map((ahead) => [ahead?.from, ahead?.direction, ahead?.count])).toEqual([
    [11, 1, 1],
    [12, 1, 2],
    [13, 1, 4],
    [14, 1, 8],
    [15, 1, 16],
    [16, 1, 16],
    [17, 1, 16],
  ]);
  expect(up.map((ahead) => ahead?.probability)).toEqual([undefined, 0.6, ...Array(6).fill(0.9)]);
  expect(followed([40, 39, 38])[2]).toMatchObject({ from: 38, direction: -1, count: 2 });
});

test('a walk in longer steps makes each span less likely, and in still longer ones there is none', () => {
  const steps = followed([10, 12, 13, 15, 16])[4]!;
  expect(steps.probability).toBeCloseTo((0.9 * 4) / 6);
  expect(followed([10, 13, 16])[2]!.probability).toBeCloseTo(0.3);
  expect(followed([10, 14, 18, 22])).toEqual([null, null, null, null]);
});

test('several walks of a file go on beside each other, and beside reads at random', () => {
  const walks = [100, 500, 101, 300, 498, 102, 20, 497, 103, 495, 200, 104];
  const found = followed(walks);
  expect(found[5]).toMatchObject({ from: 102, direction: 1 });
  expect(found[7]).toMatchObject({ from: 497, direction: -1 });
  expect(found[11]).toMatchObject({ from: 104, direction: 1, count: 8 });
  expect(found.filter((ahead) => ahead !== null)).toHaveLength(7);
});

test('a step back begins another walk', () => {
  expect(followed([10, 11, 12, 11, 10, 9]).map((ahead) => ahead?.direction)).toEqual([
    undefined,
    1,
    1,
    undefined,
    -1,
    -1,
  ]);
});
