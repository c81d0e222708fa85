import { expect, test } from 'vitest';
import type { LayerIndex, Nid, SpanIndex } from './ids.js';

test('an id of one kind is refused, by the compiler, where another kind is asked for', () => {
  const nid: Nid = 36;
  const read = (layer: LayerIndex, span: SpanIndex): number => layer + span;
  // @ts-expect-error -- a nid is no span index
  expect(read(0, nid)).toBe(36);
  const span: SpanIndex = nid + 1;
  expect(read(0, span)).toBe(37);
});
