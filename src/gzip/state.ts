import { createHash } from 'node:crypto';
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { FormatError } from '../bytes/index.js';
import { MAX_CHECKPOINT_HEADER_BYTES, WINDOW_BYTES } from './format.js';

/**
 * A span's checkpoint state: the bytes that an archive stores, and the SHA-256 of what they inflate to. The raw state is
 *
 *     u16 LE length of the header, header, window
 *
 * where both are as GzipIndexer.onCheckpoint gives them; the window ends at the checkpoint. The raw state decides what the
 * span's bytes inflate to, so its digest belongs to the span table (docs/format.md, "3: spans"). The stored bytes do not:
 * deflate's output depends on the zlib that wrote it.
 *
 * A span that starts with the header of a gzip member has no state: nothing is stored, and the digest is that of no bytes.
 */
export interface CheckpointState {
  readonly stored: Uint8Array;
  readonly sha256: Uint8Array;
}

const MAX_RAW_BYTES = 2 + MAX_CHECKPOINT_HEADER_BYTES + WINDOW_BYTES;

function sha256Of(raw: Uint8Array): Uint8Array {
  // A copy: a digest is a view of a pool, and these are posted to other threads.
  return new Uint8Array(createHash('sha256').update(raw).digest());
}

export const NO_STATE: CheckpointState = { stored: new Uint8Array(0), sha256: sha256Of(new Uint8Array(0)) };

/**
 * Level 5: level 6 takes two fifths longer for 1 % fewer bytes (docs/benchmarks.md, "Indexing and opening").
 *
 * @throws RangeError when header or window are not as GzipIndexer gives them
 */
export function encodeCheckpointState(header: Uint8Array, window: Uint8Array): CheckpointState {
  if (header.length === 0 && window.length === 0) return NO_STATE;
  if (header.length === 0 || header.length > MAX_CHECKPOINT_HEADER_BYTES || window.length > WINDOW_BYTES)
    throw new RangeError('checkpoint state');
  const raw = new Uint8Array(2 + header.length + window.length);
  raw[0] = header.length & 0xff;
  raw[1] = header.length >>> 8;
  raw.set(header, 2);
  raw.set(window, 2 + header.length);
  // A copy, because zlib's result may be part of a larger buffer.
  return { stored: new Uint8Array(deflateRawSync(raw, { level: 5, memLevel: 9 })), sha256: sha256Of(raw) };
}

/** A checkpoint state is not the one that the archive names. Nothing was inflated from it. */
export class CheckpointStateError extends FormatError {
  constructor(detail: string, cause?: unknown) {
    super('checkpoint state', 0, detail, {
      cause,
      hint: 'the archive is damaged or forged: make it again with clipctl index',
    });
  }
}

/** The reverse. @throws CheckpointStateError when the stored bytes are not the state that `sha256` names */
export function decodeCheckpointState({ stored, sha256 }: CheckpointState): { header: Uint8Array; window: Uint8Array } {
  let raw = stored;
  if (stored.length > 0) {
    try {
      raw = inflateRawSync(stored, { maxOutputLength: MAX_RAW_BYTES });
    } catch (cause) {
      throw new CheckpointStateError('it does not inflate', cause);
    }
  }
  if (Buffer.compare(sha256Of(raw), sha256) !== 0) throw new CheckpointStateError('its SHA-256 differs');
  if (raw.length === 0) return { header: raw, window: raw };
  const length = raw.length < 2 ? -1 : raw[0]! + raw[1]! * 256;
  if (length < 1 || length > MAX_CHECKPOINT_HEADER_BYTES || length > raw.length - 2)
    throw new CheckpointStateError(`a header of ${length} bytes in ${raw.length}`);
  const window = raw.subarray(2 + length);
  if (window.length > WINDOW_BYTES) throw new CheckpointStateError(`a window of ${window.length} bytes`);
  return { header: raw.subarray(2, 2 + length), window };
}
