// Fuzz target: gzip streams of any kind, against zlib.
import { constants, crc32, deflateRawSync, gunzipSync, gzipSync } from 'node:zlib';
import { FormatError } from '../../src/bytes/index.js';
import { checkSpans, type IndexedGzip, type IndexGzipOptions, indexGzip } from '../support/gzip.js';
import type { Random } from './random.js';

/** A bomb is cut here by both sides; it is enough for any structure that input of a few KiB can have. */
const MAX_OUTPUT = 4 << 20;

class TooMuch extends Error {}

/** As a lane's memory, but every few bytes there is another slot, and every few KiB another buffer. */
const SHAPE = { outBuffers: 3, outBytes: 5000, inSlots: 2, inBytes: 61, sums: 0 };

function index(input: Uint8Array, options: IndexGzipOptions): IndexedGzip | FormatError | TooMuch {
  let produced = 0;
  const onView = (view: Uint8Array): void => {
    produced += view.length;
    if (produced > MAX_OUTPUT) throw new TooMuch();
  };
  try {
    return indexGzip(input, { ...options, onView });
  } catch (error) {
    if (error instanceof FormatError || error instanceof TooMuch) return error;
    throw error;
  }
}

export function execute(input: Uint8Array): string {
  // Sizes that follow from the input, so that a kept one fails again.
  const spanBytes = 1 + (crc32(input) % (input.length < 200 ? 50 : 5000));
  const whole = index(input, { spanBytes });
  const pieces = index(input, { spanBytes, step: 1 + (input.length % 61), shape: SHAPE });
  let reference: Buffer | null = null;
  let refusal = '';
  try {
    // Where gzip(1) ignores garbage, with a warning, Node's gunzip looks for another member.
    const garbage = 'warnings' in whole ? /from byte (\d+) on/.exec(whole.warnings[0] ?? '') : null;
    reference = gunzipSync(garbage ? input.subarray(0, Number(garbage[1])) : input, { maxOutputLength: MAX_OUTPUT });
  } catch (error) {
    refusal = String((error as { code?: unknown }).code);
  }
  if (whole instanceof TooMuch || pieces instanceof TooMuch) {
    if (reference !== null) throw new Error('more output than zlib gives');
    return 'too much';
  }
  if (whole instanceof FormatError || pieces instanceof FormatError) {
    if (!(whole instanceof FormatError && pieces instanceof FormatError))
      throw new Error('pieces are treated differently');
    if (whole.what !== pieces.what || whole.detail !== pieces.detail)
      throw new Error(`${whole.message} / ${pieces.message}`);
    if (reference !== null) throw new Error(`refused, but zlib accepts it: ${whole.message}`);
    return `${whole.what}: ${whole.detail.replace(/[0-9a-f]{8}|\d+/g, '#')}`;
  }
  if (!whole.output.equals(pieces.output)) throw new Error('pieces give other bytes');
  if (reference === null && refusal !== 'ERR_BUFFER_TOO_LARGE') throw new Error(`accepted, but zlib says ${refusal}`);
  if (reference !== null && !whole.output.equals(reference)) throw new Error('zlib gives other bytes');
  checkSpans(input, whole);
  return `ok ${Math.min(40, whole.checkpoints.length)} ${new Set(whole.checkpoints.map((c) => c.header[0])).size}`;
}

function sample(kind: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) {
    const noise = Math.imul(i + 1, 0x9e3779b1) >>> 24;
    bytes[i] = kind === 0 ? noise : kind === 1 ? 97 + (noise % 7) : kind === 2 ? 0 : (i >> 3) % 251;
  }
  return bytes;
}

export function corpus(): Uint8Array[] {
  const inputs: Uint8Array[] = [];
  for (const kind of [0, 1, 2, 3]) {
    for (const length of [0, 1, 300, 5000]) {
      const data = sample(kind, length);
      for (const level of [0, 1, 9]) inputs.push(gzipSync(data, { level }));
      for (const strategy of [constants.Z_FIXED, constants.Z_HUFFMAN_ONLY, constants.Z_RLE])
        inputs.push(gzipSync(data, { strategy }));
    }
  }
  const mixed = Buffer.concat([sample(0, 40), sample(1, 400), sample(2, 900), sample(3, 300)]);
  const pieces = [gzipSync(mixed), gzipSync(''), gzipSync('member')];
  inputs.push(
    Buffer.concat(pieces),
    Buffer.concat([...pieces, new Uint8Array(20)]),
    Buffer.concat([...pieces, Buffer.from('garbage')]),
  );
  inputs.push(Buffer.concat([gzipSync(mixed).subarray(0, 100), Buffer.from('cut off')]));
  // All header fields: FEXTRA, FNAME, FCOMMENT, FHCRC.
  const fields = Buffer.from([31, 139, 8, 30, 0, 0, 0, 0, 0, 255, 3, 0, 1, 2, 3, 110, 0, 99, 0]);
  const sum = crc32(fields) & 0xffff;
  inputs.push(Buffer.concat([fields, Buffer.from([sum & 255, sum >> 8]), gzipSync(mixed).subarray(10)]));
  return inputs;
}

/**
 * Changes the deflate stream and puts a right trailer on the output that zlib gives, so that the change is not merely a CRC error;
 * or wraps a stream of random blocks.
 */
export function mutate(input: Uint8Array, random: Random): Uint8Array {
  if (input.length < 20) return input;
  let body = input.slice(10, -8);
  if (random.chance(3))
    body = Buffer.concat([deflateRawSync(random.bytes(50), { finishFlush: constants.Z_SYNC_FLUSH }), body]);
  for (let n = random.below(4); n > 0 && body.length > 0; n--)
    body[random.skewed(body.length)]! ^= 1 << random.below(8);
  return resealed(body, random);
}

function resealed(body: Uint8Array, random: Random): Uint8Array {
  // Our own decoder, told to stop nowhere, gives the body's output; zlib judges afterwards.
  const trailer = Buffer.alloc(8);
  const header = Buffer.from([31, 139, 8, 0, 0, 0, 0, 0, 0, 3]);
  const result = index(Buffer.concat([header, body, trailer]), {});
  if (result instanceof FormatError) {
    const found = /CRC-32 \w+ recorded, (\w+) found/.exec(result.detail);
    if (found) trailer.writeUInt32LE(Number.parseInt(found[1]!, 16), 0);
    const again = index(Buffer.concat([header, body, trailer]), {});
    const length = again instanceof FormatError ? /length \d+ recorded, (\d+) found/.exec(again.detail) : null;
    if (length) trailer.writeUInt32LE(Number(length[1]), 4);
  }
  return Buffer.concat([header, body, trailer, random.chance(8) ? tail(random) : new Uint8Array(0)]);
}

function tail(random: Random): Uint8Array {
  return random.chance(2) ? new Uint8Array(random.below(40)) : gzipSync(random.bytes(random.below(40)));
}
