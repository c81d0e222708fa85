import { expect, test } from 'vitest';
import { parseJson } from './json.js';

const parse = (text: string): unknown => parseJson(Buffer.from(text));

test('JSON from outside is parsed as always', () => {
  const value = { a: [1, { b: 'x"]}\\' }], 'c\n"[[[[': '\\"', d: null, e: 'ü' };
  expect(parse(JSON.stringify(value))).toEqual(value);
  expect(parse(JSON.stringify('['.repeat(1000)))).toBe('['.repeat(1000));
  expect(parse(`[${'[],'.repeat(1000)}[]]`)).toHaveLength(1001);
  for (const bad of ['', '{', '"', '"\\', ']', 'x']) expect(() => parse(bad)).toThrow();
  expect(() => parseJson(Uint8Array.of(0x22, 0xff, 0x22))).toThrow();
});

test('JSON that would exhaust the stack when it is written again is refused', () => {
  expect(parse('['.repeat(200) + ']'.repeat(200))).toHaveLength(1);
  expect(() => parse('['.repeat(201) + ']'.repeat(201))).toThrow('more than 200 objects in each other');
  expect(parse(`[${'{},'.repeat(1000)}"${'['.repeat(1000)}"]`)).toHaveLength(1001);
  for (const [open, close] of [
    ['[', ']'],
    ['{"a":', '}'],
  ] as const) {
    const deep = `${open.repeat(100_000)}1${close.repeat(100_000)}`;
    expect(() => parse(deep)).toThrow('more than 200 objects in each other');
  }
});
