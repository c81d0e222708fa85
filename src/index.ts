export { ClipError, type ErrorCode, FormatError } from './bytes/index.js';
