// Fuzz target: gob streams. Whatever is read must cost no more than its bytes are worth, and come to an end.
import { readFileSync } from 'node:fs';
import { FormatError } from '../../src/bytes/index.js';
import {
  GobInterface,
  GobReader,
  GobStruct,
  type GobValue,
  GobWriter,
  type Schema,
} from '../../src/legacy/gob/index.js';
import type { Random } from './random.js';

/** Values in a stream, counted by walking them: each must have taken a byte at least. */
function count(value: GobValue | undefined): number {
  if (value instanceof GobStruct) return 1 + value.values.reduce<number>((sum, field) => sum + count(field), 0);
  if (value instanceof GobInterface) return 1 + count(value.value);
  if (value instanceof Map) return 1 + [...value.values()].reduce<number>((sum, item) => sum + count(item), 0);
  if (Array.isArray(value)) return 1 + value.reduce<number>((sum, item: GobValue) => sum + count(item), 0);
  return value === undefined ? 0 : 1;
}

export function execute(input: Uint8Array): string {
  const reader = new GobReader(input, 'fuzz');
  let values = 0;
  try {
    for (let value = reader.next(); value !== undefined; value = reader.next()) values += count(value);
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    if (error.offset < 0 || error.offset > input.length) throw new Error(`the error is at byte ${error.offset}`);
    return error.detail.replace(/\d+|"[^"]*"/g, '#').replace(/ of .*, which/, ' of #, which');
  }
  if (values > input.length) throw new Error(`${values} values out of ${input.length} bytes`);
  return `ok ${Math.min(50, values)}`;
}

export function corpus(): Uint8Array[] {
  const lines = readFileSync(new URL('../../../test/fixtures/gob/go.jsonl', import.meta.url), 'utf8')
    .trim()
    .split('\n');
  const go = lines.map((line) => Buffer.from((JSON.parse(line) as { hex: string }).hex, 'hex'));
  const node: Schema = {
    struct: 'Node',
    fields: [
      ['Path', 'string'],
      ['Size', 'uint'],
      ['Kids', { slice: 'string' }],
      ['Map', { map: ['string', 'int'] }],
    ],
  };
  const value = { Path: '/a', Size: 70_000, Kids: ['x', ''], Map: new Map([['k', -1]]) };
  return [...go, new GobWriter().write(node, value).write({ slice: node }, [value, {}, value]).finish()];
}

/** Types changed into each other, counts and ids changed: what random bits seldom do. */
export function mutate(input: Uint8Array, random: Random): Uint8Array {
  const out = Buffer.from(input);
  if (out.length < 4) return out;
  const at = random.below(out.length - 1);
  switch (random.below(3)) {
    case 0: // another type id, small or a user's
      if (random.chance(2)) out[at] = 2 * random.below(24);
      else {
        out[at] = 0xff;
        out[at + 1] = 128 + random.below(24);
      }
      return out;
    case 1: // a count of many bytes
      return Buffer.concat([out.subarray(0, at), Buffer.from([0x100 - 1 - random.below(8)]), out.subarray(at)]);
    default: // the last message again
      return Buffer.concat([out, out.subarray(at)]);
  }
}
