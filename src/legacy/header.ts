import { Cursor, FormatError } from '../bytes/index.js';
import { HEADER, HEADER_SIZE, INFO_TYPE_SIZE, MAGIC, MAX_INDEX_BYTES, MAX_INFO_BYTES, VERSION } from './format.js';

export type StorageType = 'local' | 's3' | 'oci';

export interface LegacyHeader {
  readonly index: { readonly position: number; readonly length: number };
  /** Length 0 for a local archive. */
  readonly info: { readonly position: number; readonly length: number };
  readonly storage: StorageType;
}

/** Whether these first bytes of a file are those of a version 1 archive. */
export function isLegacyHeader(bytes: Uint8Array): boolean {
  return (
    bytes.length > HEADER.version && MAGIC.every((byte, i) => bytes[i] === byte) && bytes[HEADER.version] === VERSION
  );
}

/** @param fileSize what the positions must lie in. @throws FormatError */
export function decodeHeader(bytes: Uint8Array, name: string, fileSize: number): LegacyHeader {
  const cursor = new Cursor(bytes, `${name}: header`);
  if (!isLegacyHeader(bytes)) throw new FormatError(`${name}: header`, 0, 'not a version 1 archive');
  cursor.skip(HEADER.version + 1);
  const index = place(cursor, 'index', fileSize, MAX_INDEX_BYTES);
  const info = place(cursor, 'storage info', fileSize, MAX_INFO_BYTES);
  if (index.length === 0) cursor.fail('the index is empty: the archive was not written to its end', 10);
  const raw = cursor.bytes(INFO_TYPE_SIZE);
  const end = raw.indexOf(0);
  const text = Buffer.from(end < 0 ? raw : raw.subarray(0, end)).toString('latin1');
  // The program of 2023 left the type empty for local archives and wrote no info.
  const storage = text === '' && info.length === 0 ? 'local' : text;
  if (storage === 'local' || storage === 's3' || storage === 'oci') return { index, info, storage };
  return cursor.fail(`storage type ${JSON.stringify(text)}: "", "local", "s3" or "oci" expected`, HEADER.infoType);
}

function place(cursor: Cursor, of: string, fileSize: number, most: number): { position: number; length: number } {
  const at = cursor.offset;
  const [length, position] = [cursor.i64(), cursor.i64()];
  if (length < 0n || length > BigInt(most)) cursor.fail(`${of} of ${length} bytes, at most ${most} expected`, at);
  if (position < 0n || position + length > BigInt(fileSize)) {
    cursor.fail(`${of} of ${length} bytes at ${position}, but the file has ${fileSize}: truncated`, at);
  }
  return { position: Number(position), length: Number(length) };
}

export function encodeHeader({ index, info, storage }: LegacyHeader): Uint8Array {
  const bytes = new Uint8Array(HEADER_SIZE);
  const view = new DataView(bytes.buffer);
  bytes.set(MAGIC);
  bytes[HEADER.version] = VERSION;
  [index.length, index.position, info.length, info.position].forEach((value, i) => {
    view.setBigInt64(HEADER.version + 1 + 8 * i, BigInt(value), true);
  });
  if (storage !== 'local') bytes.set(Buffer.from(storage, 'latin1'), HEADER.infoType);
  return bytes;
}
