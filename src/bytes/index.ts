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
  reject,
  shown,
  string,
  text,
} from './check.js';
export { crc32, crc32Combine, crc32c } from './crc.js';
export { Cursor } from './cursor.js';
export { ClipError, type ErrorCode, FormatError } from './errors.js';
export { fromHex, toHex } from './hex.js';
