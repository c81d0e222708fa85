import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { FormatError } from '../bytes/index.js';
import { MAX_CHECKPOINT_HEADER_BYTES, WINDOW_BYTES } from './format.js';

/**
 * A checkpoint state as it is stored in an archive: raw deflate of
 *
 *     u16 LE length of the header, header, window
 *
 * where both are as GzipIndexer.onCheckpoint gives them. The window ends at the checkpoint. No bytes at all stand for no
 * header and no window: the span starts with the header of a gzip member.
 *
 * Level 6: higher levels take much longer and save little (docs/benchmarks.md, "Why these constants").
 *
 * @throws RangeError when header or window are not as GzipIndexer gives them
 */
export function encodeCheckpointState(header: Uint8Array, window: Uint8Array): Uint8Array {
  if (header.length === 0 && window.length === 0) return new Uint8Array(0);
  if (header.length === 0 || header.length > MAX_CHECKPOINT_HEADER_BYTES || window.length > WINDOW_BYTES)
    throw new RangeError('checkpoint state');
  const raw = new Uint8Array(2 + header.length + window.length);
  raw[0] = header.length & 0xff;
  raw[1] = header.length >>> 8;
  raw.set(header, 2);
  raw.set(window, 2 + header.length);
  return deflateRawSync(raw, { level: 6, memLevel: 9 });
}

/** The reverse. @throws FormatError when the blob is not one that encodeCheckpointState() can make */
export function decodeCheckpointState(blob: Uint8Array): { header: Uint8Array; window: Uint8Array } {
  if (blob.length === 0) return { header: new Uint8Array(0), window: new Uint8Array(0) };
  let raw: Uint8Array;
  try {
    raw = inflateRawSync(blob, { maxOutputLength: 2 + MAX_CHECKPOINT_HEADER_BYTES + WINDOW_BYTES });
  } catch (cause) {
    throw new FormatError('checkpoint state', 0, 'it does not inflate', { cause });
  }
  const length = raw.length < 2 ? -1 : raw[0]! + raw[1]! * 256;
  if (length < 1 || length > MAX_CHECKPOINT_HEADER_BYTES || length > raw.length - 2) {
    throw new FormatError('checkpoint state', 0, `a header of ${length} bytes in ${raw.length}`);
  }
  const window = raw.subarray(2 + length);
  if (window.length > WINDOW_BYTES) throw new FormatError('checkpoint state', 0, `a window of ${window.length} bytes`);
  return { header: raw.subarray(2, 2 + length), window };
}
