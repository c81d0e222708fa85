import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { ReceiveOrder, ReceiveOrders, type Turn } from './receive-order.js';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

/** Whether a turn that asks may take more now; `then` is called when it may later. */
function asks(turn: Turn, most: number, then: () => void = () => {}): boolean {
  const held = turn.wait(most);
  void held?.then(then);
  return held === null;
}

const settled = (): Promise<unknown> => vi.advanceTimersByTimeAsync(0);

test('a later answer is taken when little is to come of earlier ones', async () => {
  const order = new ReceiveOrder();
  const [first, second, third] = [order.join(1000), order.join(1000), order.join(1000)];
  for (const turn of [first, second, third]) turn.received(100);
  const gone: string[] = [];
  expect(asks(first, 500)).toBe(true);
  expect(asks(second, 500, () => gone.push('second'))).toBe(false);
  expect(asks(third, 500, () => gone.push('third'))).toBe(false);
  first.received(300);
  await settled();
  expect(gone).toEqual([]);
  first.received(100);
  await settled();
  expect(gone).toEqual(['second']);
  first.received(500);
  first.end();
  second.received(300);
  await settled();
  expect(gone).toEqual(['second']);
  second.received(100);
  await settled();
  expect(gone).toEqual(['second', 'third']);
});

test('an answer that has not begun holds none, nor does one that was given up', async () => {
  const order = new ReceiveOrder();
  const [first, second] = [order.join(1000), order.join(1000)];
  second.received(100);
  expect(asks(second, 0)).toBe(true);
  first.received(1);
  let gone = false;
  expect(asks(second, 0, () => (gone = true))).toBe(false);
  first.end();
  await settled();
  expect(gone).toBe(true);
});

test('one that has stalled holds none after 50 ms, and the others keep their order', async () => {
  const order = new ReceiveOrder();
  const [stalled, second, third] = [order.join(1000), order.join(1000), order.join(1000)];
  for (const turn of [stalled, second, third]) turn.received(100);
  const gone: string[] = [];
  asks(second, 0, () => gone.push('second'));
  asks(third, 0, () => gone.push('third'));
  await vi.advanceTimersByTimeAsync(60);
  expect(gone).toEqual(['second']);
  await vi.advanceTimersByTimeAsync(30);
  second.received(400);
  expect(asks(second, 0)).toBe(true);
  await settled();
  expect(gone).toEqual(['second']);
  second.received(500);
  await settled();
  expect(gone).toEqual(['second', 'third']);
});

test('one that a reader comes to wait for is taken at once, whatever is before it', async () => {
  const order = new ReceiveOrder();
  const [first, second] = [order.join(1000), order.join(1000)];
  first.received(1);
  second.received(1);
  let gone = false;
  asks(second, 0, () => (gone = true));
  second.hurry();
  await settled();
  expect(gone).toBe(true);
  expect(asks(second, 0)).toBe(true);
});

test('each source has an order of its own', () => {
  const orders = new ReceiveOrders();
  const [a, b] = [{}, {}];
  expect(orders.of(a)).toBe(orders.of(a));
  expect(orders.of(a)).not.toBe(orders.of(b));
});
