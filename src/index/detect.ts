import { describeContent, FormatError } from '../bytes/index.js';

/** How a blob is compressed, by its bytes. `empty`: no bytes at all, a layer without entries. */
export type Encoding = 'empty' | 'tar' | 'gzip' | 'zstd';

/** How much of a blob's beginning detectEncoding needs, unless the blob is shorter: one tar header. */
export const DETECT_BYTES = 512;

function startsWith(bytes: Uint8Array, magic: readonly number[]): boolean {
  return magic.every((byte, i) => bytes[i] === byte);
}

/**
 * A tar header has a correct checksum (POSIX ustar: the sum of its bytes, with blanks in the checksum field; old tars summed signed
 * chars), or is the zero block that ends an empty archive.
 */
function isTarHeader(block: Uint8Array): boolean {
  if (block.length < DETECT_BYTES) return false;
  let unsigned = 0;
  let signed = 0;
  for (let i = 0; i < DETECT_BYTES; i++) {
    const byte = i >= 148 && i < 156 ? 0x20 : block[i]!;
    unsigned += byte;
    signed += byte < 128 ? byte : byte - 256;
  }
  const field = Buffer.from(block.buffer, block.byteOffset + 148, 8).toString('latin1');
  const stored = Number.parseInt(/^[ \0]*([0-7]+)/.exec(field)?.[1] ?? '', 8);
  return stored === unsigned || stored === signed || block.subarray(0, DETECT_BYTES).every((byte) => byte === 0);
}

/**
 * Decides by magic bytes, since media types may be wrong. `head` is the blob's beginning, DETECT_BYTES or the whole of it.
 * Throws FormatError naming `what` when it is neither tar nor a compression that layers have.
 */
export function detectEncoding(head: Uint8Array, what: string): Encoding {
  if (head.length === 0) return 'empty';
  if (startsWith(head, [0x1f, 0x8b])) return 'gzip';
  if (startsWith(head, [0x28, 0xb5, 0x2f, 0xfd])) return 'zstd';
  // A skippable frame (RFC 8878 §3.1.2), as zstd:chunked and pzstd begin with.
  if (startsWith(head.subarray(1), [0x2a, 0x4d, 0x18]) && (head[0]! & 0xf0) === 0x50) return 'zstd';
  if (isTarHeader(head)) return 'tar';
  throw new FormatError(what, 0, `neither a tar nor one compressed by gzip or zstd, but ${describeContent(head)}`, {
    hint: 'only layers that are tar, tar+gzip or tar+zstd can be indexed',
  });
}
