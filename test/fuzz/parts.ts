// Fuzz target: an answer in parts (multipart/byteranges), and its Content-Type, in pieces of any length.
import { FormatError } from '../../src/bytes/index.js';
import { boundaryOf, PartsReader } from '../../src/oci/byte-ranges.js';
import { multipartAnswer, PLAIN_STYLE } from '../support/multipart.js';
import type { Random } from './random.js';

const BLOB = Buffer.from(Array.from({ length: 4000 }, (_, i) => i * 31));
const RANGES = [
  { start: 3000, length: 50 },
  { start: 7, length: 1 },
  { start: 1000, length: 300 },
];
const LENGTH = 351;

function read(type: string, body: Uint8Array, step: number): { bytes: number; outcome: string } {
  const boundary = boundaryOf(type);
  if (boundary === null) return { bytes: 0, outcome: 'no boundary' };
  const reader = new PartsReader('fuzz', boundary, RANGES, BLOB.length);
  let bytes = 0;
  for (let at = 0; at < body.length; ) {
    const piece = body.subarray(at, at + step - (at % step));
    if (reader.left > 0) {
      const taken = Math.min(reader.left, piece.length);
      reader.took(taken);
      bytes += taken;
      at += taken;
      continue;
    }
    try {
      const taken = reader.between(piece);
      if (taken === 0 && reader.left === 0) throw new Error(`nothing was taken at ${at}`);
      at += taken;
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      if (error.offset < 0 || error.offset > body.length) throw new Error(`the error is at byte ${error.offset}`);
      return { bytes, outcome: error.message };
    }
  }
  if (reader.ended && bytes !== LENGTH) throw new Error(`an end after ${bytes} bytes`);
  return { bytes, outcome: `${reader.ended ? 'ended' : 'cut off'} ${reader.left}` };
}

/** The first line is the Content-Type. */
export function execute(input: Uint8Array): string {
  const end = input.indexOf(10);
  const type = Buffer.from(input.subarray(0, Math.max(0, end))).toString('latin1');
  const body = input.subarray(end + 1);
  const whole = read(type, body, Math.max(1, body.length));
  const pieces = read(type, body, 1 + (input.length % 7));
  if (whole.bytes !== pieces.bytes || whole.outcome !== pieces.outcome) {
    throw new Error(`${whole.bytes} ${whole.outcome} / ${pieces.bytes} ${pieces.outcome}`);
  }
  if (whole.bytes > LENGTH) throw new Error(`${whole.bytes} bytes of ${LENGTH}`);
  return whole.outcome.replace(/".*?"|\d+/g, '#');
}

export function corpus(): Uint8Array[] {
  const type = `multipart/byteranges; boundary=${PLAIN_STYLE.boundary}\n`;
  const answer = (style: Partial<typeof PLAIN_STYLE> = {}): Buffer =>
    multipartAnswer(BLOB, RANGES, { ...PLAIN_STYLE, ...style });
  return [
    Buffer.concat([Buffer.from(type), answer()]),
    Buffer.concat([
      Buffer.from('multipart/byteranges;x=y; boundary="a \\b"\n'),
      answer({ boundary: 'a b', lead: '\r\n' }),
    ]),
    Buffer.concat([
      Buffer.from(type),
      answer({ padding: ' \t', epilogue: '', fields: (range) => `content-range:${range}\r\n` }),
    ]),
    Buffer.concat([Buffer.from(type), multipartAnswer(BLOB, RANGES.slice(1), PLAIN_STYLE)]),
    Buffer.from('application/octet-stream\nx'),
  ];
}

/** Line ends, dashes and digits in other places. */
export function mutate(input: Uint8Array, random: Random): Uint8Array {
  const out = Buffer.from(input);
  if (out.length === 0) return out;
  const piece = random.pick([
    '\r\n',
    '\r\n\r\n',
    '--',
    `--${PLAIN_STYLE.boundary}`,
    '0',
    '\r\n--',
    ' ',
    'Content-Range: ',
  ]);
  out.write(piece, random.below(out.length), 'latin1');
  return out;
}
