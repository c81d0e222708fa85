// Fuzz target: zstd streams of any kind, delivered whole and in pieces; spans are decoded as readers do, and compared.
import { execFileSync } from 'node:child_process';
import { crc32 } from 'node:zlib';
import { ClipError } from '../../src/bytes/index.js';
import { ZstdIndexer, ZstdSpanInflater, ZstdStream, type ZstdSummary } from '../../src/zstd/index.js';
import type { Random } from './random.js';

/** 4 bytes of input may stand for 128 KiB. */
const MAX_OUTPUT = 8 << 20;

class TooMuch extends Error {}

interface Indexed {
  readonly summary: ZstdSummary;
  readonly bounds: readonly { layerOffset: number; byteOffset: number; crc: number }[];
  readonly crc: number;
}

function index(input: Uint8Array, spanBytes: number, step: number): Indexed | ClipError | TooMuch {
  const indexer = new ZstdIndexer({ spanBytes });
  const bounds = [{ layerOffset: 0, byteOffset: 0, crc: 0 }];
  let produced = 0;
  let crc = 0;
  let span = 0;
  indexer.onBoundary = (layerOffset, byteOffset) => {
    bounds.push({ layerOffset, byteOffset, crc: span });
    span = 0;
  };
  try {
    for (let at = 0; at < input.length; at += step) {
      indexer.push(input.subarray(at, at + step), (view) => {
        produced += view.length;
        if (produced > MAX_OUTPUT) throw new TooMuch();
        crc = crc32(view, crc);
        span = crc32(view, span);
      });
    }
    return { summary: indexer.finish(), bounds, crc };
  } catch (error) {
    if (error instanceof ClipError || error instanceof TooMuch) return error;
    throw error;
  }
}

const inflater = new ZstdSpanInflater();

function checkSpans(input: Uint8Array, { summary, bounds }: Indexed): void {
  const stream = summary.kind === 'zstd-stream' ? new ZstdStream() : null;
  for (let i = 1; i < bounds.length; i++) {
    const [from, to] = [bounds[i - 1]!, bounds[i]!];
    const compressed = input.subarray(from.byteOffset, to.byteOffset);
    const length = to.layerOffset - from.layerOffset;
    if (length <= 0 || compressed.length === 0) throw new Error(`span ${i - 1} is empty`);
    const crc = (stream ?? inflater).inflate(compressed, length, () => {});
    if (crc !== to.crc) throw new Error(`span ${i - 1} decodes to other bytes`);
  }
  if (bounds.at(-1)!.layerOffset !== summary.layerSize) throw new Error('the spans are not all of the layer');
}

export function execute(input: Uint8Array): string {
  const spanBytes = 1 + (crc32(input) % (input.length < 200 ? 50 : 100_000));
  const whole = index(input, spanBytes, Math.max(1, input.length));
  const pieces = index(input, spanBytes, 1 + (input.length % 61));
  if (whole instanceof TooMuch || pieces instanceof TooMuch) return 'too much';
  if (whole instanceof ClipError || pieces instanceof ClipError) {
    // Where in a damaged block libzstd notices depends on how it came.
    if (!(whole instanceof ClipError && pieces instanceof ClipError)) throw new Error('pieces are treated differently');
    return whole.message.replace(/[0-9a-f]{8}|\d+/g, '#');
  }
  if (whole.crc !== pieces.crc) throw new Error('pieces give other bytes');
  if (JSON.stringify(whole.bounds) !== JSON.stringify(pieces.bounds)) throw new Error('pieces give other spans');
  checkSpans(input, whole);
  return `ok ${whole.summary.kind} ${Math.min(20, whole.bounds.length)}`;
}

export function corpus(): Uint8Array[] {
  const zstd = (data: Uint8Array, ...args: string[]): Buffer =>
    execFileSync('zstd', ['-q', '-c', ...args], { input: data });
  const sized = (data: Uint8Array): string => `--stream-size=${data.length}`;
  const text = Buffer.from('a layer is a tar, a tar is blocks, '.repeat(40));
  const noise = Buffer.from(Array.from({ length: 900 }, (_, i) => Math.imul(i + 1, 0x9e3779b1) >>> 24));
  const long = Buffer.concat(Array.from({ length: 150 }, (_, i) => (i % 3 === 0 ? noise : text)));
  const inputs: Buffer[] = [];
  for (const data of [Buffer.alloc(0), text, noise, long, Buffer.alloc(300_000)]) {
    inputs.push(zstd(data), zstd(data, '-19', '--no-check'), zstd(data, sized(data)));
  }
  const skippable = Buffer.from('5a2a4d1803000000abcdef', 'hex');
  const two = Buffer.concat([skippable, inputs[3]!, inputs[4]!, skippable, inputs[8]!, skippable]);
  const many = Buffer.concat(Array.from({ length: 30 }, (_, i) => inputs[3 + (i % 6)]!));
  return [...inputs, skippable, two, many];
}

/** Moves frames and changes headers, which random bits seldom do. */
export function mutate(input: Uint8Array, random: Random): Uint8Array {
  const out = Buffer.from(input);
  if (out.length < 12) return out;
  const magic = Buffer.from([0x28, 0xb5, 0x2f, 0xfd]);
  const starts: number[] = [];
  for (let at = out.indexOf(magic); at >= 0; at = out.indexOf(magic, at + 1)) starts.push(at);
  const start = starts[random.below(Math.max(1, starts.length))] ?? 0;
  switch (random.below(4)) {
    case 0:
      out[start + 4 + random.below(6)]! ^= 1 << random.below(8);
      return out;
    case 1:
      return Buffer.concat([out.subarray(start), out.subarray(0, start)]);
    case 2: {
      const frame = Buffer.alloc(8 + random.below(40));
      frame.writeUInt32LE(0x184d2a50 + random.below(16), 0);
      frame.writeUInt32LE(frame.length - 8, 4);
      return Buffer.concat([out.subarray(0, start), frame, out.subarray(start)]);
    }
    default:
      return Buffer.concat([out, out.subarray(start)]);
  }
}
