/**
 * The ground for reading untrusted data: a bounds-checked cursor, varints, CRCs, hex, binary search, checks of values from outside,
 * and the typed errors. Nothing here knows a format of clip's or does I/O. Imports nothing. Runs in every process and thread.
 */

export { lowerBound } from './binary-search.js';
export {
  anyFunction,
  anyObject,
  boolean,
  type Check,
  checked,
  fields,
  listOf,
  number,
  object,
  oneOf,
  optionsOf,
  reject,
  shown,
  string,
  text,
} from './check.js';
export { describeContent } from './content.js';
export { counted } from './counted.js';
export { crc32, crc32Combine, crc32c } from './crc.js';
export { Crc64, crc64, crc64Combine, loadCrc64 } from './crc64.js';
export { Cursor } from './cursor.js';
export { AbortError, ClipError, type ErrorCode, EXIT_CODES, FormatError } from './errors.js';
export { toHex } from './hex.js';
export type { ConnectionId, LayerId, LayerIndex, Nid, SpanIndex } from './ids.js';
export { parseJson } from './json.js';
export { printable, printableJson, printableText } from './printable.js';
export { wasmExports } from './wasm.js';
export { updateZeros } from './zeros.js';
