import { expect, test } from 'vitest';
import { Link, Links } from './link.js';

/** One answer after `wait` ms, then `chunks` of 64 KiB, one each `every` ms. */
function answer(link: Link, from: number, wait: number, chunks: number, every: number): number {
  let now = from + wait;
  link.began(wait, 65536, now);
  for (let i = 1; i < chunks; i++) {
    now += every;
    link.received(65536, now);
  }
  link.ended(now);
  return now;
}

test('nothing is known before the first answer: little may be fetched ahead', () => {
  const link = new Link();
  expect(link.roundTripMs * link.bytesPerMs).toBeLessThan(300_000);
});

test('the round trip is the shortest wait, which a busy registry hardly moves and a longer way does', () => {
  const link = new Link();
  let now = 0;
  for (const wait of [41, 20, 22, 35, 90]) now = answer(link, now, wait, 1, 0);
  expect(link.roundTripMs).toBeGreaterThanOrEqual(20);
  expect(link.roundTripMs).toBeLessThan(23);
  for (let i = 0; i < 300; i++) now = answer(link, now, 80, 1, 0);
  expect(link.roundTripMs).toBeGreaterThan(75);
});

test('the rate is that of all answers together, and follows the link', () => {
  const link = new Link();
  let now = 0;
  for (let i = 0; i < 5; i++) now = answer(link, now, 20, 17, 0.5);
  expect(link.bytesPerMs).toBeCloseTo(131_072, -3);
  // Two at once, each at half the rate.
  link.began(20, 65536, now);
  link.began(20, 65536, now);
  for (let i = 0; i < 400; i++) {
    now += 1;
    link.received(65536, now);
    link.received(65536, now);
  }
  link.ended(now);
  link.ended(now);
  expect(link.bytesPerMs).toBeCloseTo(131_072, -3);
  for (let i = 0; i < 20; i++) now = answer(link, now, 20, 17, 10);
  expect(link.bytesPerMs).toBeLessThan(8_000);
});

test('answers too small to measure add up', () => {
  const link = new Link();
  const before = link.bytesPerMs;
  answer(link, 0, 20, 3, 1);
  expect(link.bytesPerMs).toBe(before);
  let now = 100;
  for (let i = 0; i < 3; i++) now = answer(link, now, 20, 3, 1);
  expect(link.bytesPerMs).toBeCloseTo(65_536, -3);
});

test('links are kept by host; a source that was not asked yet has the link used last', () => {
  const links = new Links();
  const [one, two, three] = [{}, {}, {}];
  const unknown = links.of(one).roundTripMs;
  answer(links.answered(one, 'far.example'), 0, 150, 1, 0);
  answer(links.answered(two, 'near.example'), 0, 2, 1, 0);
  expect(unknown).not.toBe(150);
  expect(links.of(one).roundTripMs).toBe(150);
  expect(links.of(three).roundTripMs).toBe(2);
  expect(links.answered(three, 'far.example').roundTripMs).toBe(150);
  expect(links.answered({}, null).roundTripMs).toBe(unknown);
});
