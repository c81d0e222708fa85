/**
 * Programs and libraries in the ELF format: their program headers, and what loading one touches. A pure codec, no I/O: its generators ask
 * for parts of a file. Names of files and libraries are the business of `startup/`. Runs in an index build and in the server.
 */

export {
  dynamicValues,
  offsetOf,
  PF_W,
  PF_X,
  PT_DYNAMIC,
  PT_GNU_RELRO,
  PT_INTERP,
  PT_LOAD,
  programTable,
  type Segment,
  segmentsOf,
  wordAt,
} from './headers.js';
export { type FilePart, loadTouches } from './load-touches.js';
