import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { FormatError } from '../../bytes/index.js';
import { GobInterface, GobReader, GobStruct, type GobValue, GobWriter, type Schema, type Writable } from './index.js';

/** A value as plain data, so that it can be compared: structs as records of what is not zero. */
function plain(value: GobValue | undefined): unknown {
  if (value instanceof GobStruct) {
    const fields = value.type.fields.map(({ name }, i) => [name, plain(value.values[i])] as const);
    return Object.fromEntries(fields.filter(([, field]) => field !== undefined));
  }
  if (value instanceof GobInterface) return { is: value.name, value: plain(value.value) };
  if (value instanceof Uint8Array) return Buffer.from(value).toString('latin1');
  if (value instanceof Map) return Object.fromEntries([...value].map(([k, v]) => [String(k), plain(v)]));
  if (Array.isArray(value)) return value.map((item: GobValue) => plain(item));
  return value;
}

function readAll(bytes: Uint8Array): unknown[] {
  const reader = new GobReader(bytes, 'test');
  const values: unknown[] = [];
  for (let value = reader.next(); value !== undefined; value = reader.next()) values.push(plain(value));
  return values;
}

const INNER = (A: number, B: string): object => ({ ...(A === 0 ? {} : { A }), ...(B === '' ? {} : { B }) });
/** What the streams of test/fixtures/gob/main.go.txt hold. */
const EXPECTED: Readonly<Record<string, unknown[]>> = {
  int: [0],
  neg: [-129],
  minint: [-(2n ** 63n)],
  maxuint: [2n ** 64n - 1n],
  float: [17],
  floats: [[0, -1.5, Number.POSITIVE_INFINITY, 1e-300]],
  string: ['h\xffllo'],
  bytes: ['\x01\x02\x03'],
  bool: [true],
  complex: [{ real: 1, imaginary: -2 }],
  slice: [['', 'a', 'bb']],
  map: [{ a: 0, b: -1 }],
  array: [[1, 0, -3]],
  two: [INNER(1, 'x'), {}, 5],
  iface: [{ X: { is: 'main.Inner', value: INNER(5, 'q') }, Y: 2 }],
  'nil iface': [{ Y: 2 }],
  'iface int': [{ X: { is: 'int', value: 42 } }],
  'iface slice': [{ X: { is: '[]main.Inner', value: [INNER(1, 'a'), INNER(2, 'b')] }, Y: 9 }],
  'nested iface': [
    {
      X: { is: 'main.Holder2', value: { X: { is: 'main.Third', value: { Q: 7, F: 2.5 } }, Z: INNER(1, 'z') } },
      Y: 3,
    },
  ],
  'deep iface': [
    {
      X: {
        is: 'main.Holder',
        value: {
          X: { is: 'main.Holder', value: { X: { is: 'main.Third', value: { Q: 7, F: 2.5 } }, Y: 1 } },
          Y: 2,
        },
      },
      Y: 3,
    },
  ],
  rec: [{ V: 1, Next: { V: 2 }, Kids: [{ V: 3 }, { Next: { V: 4 } }] }],
  all: [
    {
      Bo: true,
      I8: -128,
      I64: -(2n ** 63n),
      U8: 255,
      U64: 2n ** 64n - 1n,
      F32: 1.5,
      F64: -2.25,
      C: { real: 0, imaginary: 3 },
      S: 's\0',
      By: '\t',
      Arr: [1, -2, 3],
      Sl: ['x', ''],
      M: { k: -5 },
      MI: { '-3': INNER(1, 'y') },
      P: -77,
      T: expect.any(String),
      If: { is: 'map[string]int', value: { i: 1 } },
      E: {},
      BA: [1, 2, 3, 4],
      Neg: -1,
      SS: [[1], [], [-2, 3]],
      MM: { e: [], f: [INNER(1, 'g')] },
      PS: {},
    },
  ],
  ifaces: [
    [
      { is: 'int', value: 1 },
      { is: 'string', value: 'two' },
      { is: 'main.Inner', value: INNER(3, 'three') },
      null,
      { is: 'main.Third', value: { Q: 4 } },
      { is: '[]main.Inner', value: [INNER(5, '')] },
    ],
  ],
};

const lines = readFileSync(new URL('../../../../test/fixtures/gob/go.jsonl', import.meta.url), 'utf8');
const streams = lines
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line) as { name: string; hex: string });

describe('what Go wrote', () => {
  test.each(streams)('$name', ({ name, hex }) => {
    expect(EXPECTED).toHaveProperty([name]);
    expect(readAll(Buffer.from(hex, 'hex'))).toEqual(EXPECTED[name]);
  });

  test.each(streams)('$name: cut off anywhere it is refused, with the place', ({ hex }) => {
    const bytes = Buffer.from(hex, 'hex');
    for (let length = 1; length < bytes.length; length++) {
      let whole = 0;
      try {
        whole = readAll(bytes.subarray(0, length)).length;
      } catch (error) {
        expect(error).toBeInstanceOf(FormatError);
        expect((error as FormatError).offset).toBeLessThanOrEqual(length);
        continue;
      }
      expect(whole).toBeLessThan(readAll(bytes).length); // it ends between two messages
    }
  });
});

describe('hostile streams', () => {
  const hex = (text: string) => Buffer.from(text.replaceAll(/\s/g, ''), 'hex');
  const refusal = (bytes: Uint8Array) => {
    try {
      readAll(bytes);
    } catch (error) {
      expect(error).toBeInstanceOf(FormatError);
      return (error as FormatError).message;
    }
    throw new Error('it was read');
  };

  test('a type that names itself ends the recursion, not the stack', () => {
    // type 65 = []65; a value: 1,000 slices of one slice each.
    const definition = hex('0d ff81 02 01 02 ff82 00 01 ff82 00 00');
    const nested = Buffer.concat([hex('ff82 00'), Buffer.alloc(1000, 1), hex('00')]);
    const message = Buffer.concat([hex('fe'), Buffer.from([nested.length >> 8, nested.length & 0xff]), nested]);
    expect(refusal(Buffer.concat([definition, message]))).toMatch(/nested deeper than 100/);
  });

  test('a struct of many fields costs no more memory than its bytes are worth', () => {
    const fields = Array.from({ length: 2000 }, (_, i) => [`F${i}`, 'int'] as const);
    const wide: Schema = { slice: { struct: 'Wide', fields } };
    const bytes = new GobWriter().write(wide, new Array<Writable>(5000).fill({})).finish();
    expect(refusal(bytes)).toMatch(/structs of \d+ fields in a stream/);
  });

  test.each([
    ['a count that no bytes back', '0b ff82 00 02 fc 7fffffff 0000', /type 65 is not defined/],
    ['a message longer than the stream', 'fc 7fffffff', /a message of 2147483647 bytes/],
    ['an undefined type', '03 ff82 00', /type 65 is not defined/],
    ['a number of nine bytes', '0a f7 0102030405060708 09', /a number of 9 bytes/],
    ['bytes after the value', '04 04 00 02 02', /1 bytes after the value/],
    ['a definition of a type of gob itself', '03 0d 00 00', /type 7 is defined already/],
    ['a type of no kind', '03 ff81 00', /defined as 0 kinds of type/],
  ])('%s', (_, text, message) => {
    expect(refusal(hex(text))).toMatch(message);
  });
});

describe('what is written is read', () => {
  const schema: Schema = {
    struct: 'T',
    fields: [
      ['B', 'bool'],
      ['I', 'int'],
      ['U', 'uint'],
      ['F', 'float'],
      ['S', 'string'],
      ['L', { slice: 'string' }],
      ['M', { map: ['string', 'int'] }],
      ['N', { struct: 'N', fields: [['X', 'uint']] }],
    ],
  };
  const text = fc.string({ minLength: 0, maxLength: 8, unit: 'binary-ascii' });
  const record = fc.record({
    B: fc.boolean(),
    I: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
    U: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    F: fc.double({ noNaN: true, noDefaultInfinity: true }).map((value) => (value === 0 ? 0 : value)),
    S: text,
    L: fc.array(text, { maxLength: 4 }),
    M: fc.dictionary(fc.string({ maxLength: 3, unit: 'grapheme-ascii' }), fc.integer(), { maxKeys: 4 }),
    N: fc.record({ X: fc.nat() }),
  });

  const narrow = (value: bigint): number | bigint =>
    value >= -(2n ** 53n) + 1n && value < 2n ** 53n ? Number(value) : value;

  test('any record comes back', () => {
    fc.assert(
      fc.property(fc.array(record, { maxLength: 5 }), (records) => {
        const writer = new GobWriter();
        for (const { M, ...rest } of records) writer.write(schema, { ...rest, M: new Map(Object.entries(M)) });
        const expected = records.map(({ I, U, N, ...rest }) => {
          const all = { ...rest, I: narrow(I), U: narrow(U), N: N.X === 0 ? {} : N };
          const zero = (value: unknown): boolean =>
            value === 0 ||
            value === false ||
            value === '' ||
            (Array.isArray(value) && value.length === 0) ||
            (value === all.M && Object.keys(all.M).length === 0);
          return Object.fromEntries(Object.entries(all).filter(([, value]) => !zero(value)));
        });
        expect(readAll(writer.finish())).toEqual(expected);
      }),
    );
  });
});
