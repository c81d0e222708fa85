/**
 * Tar in all its dialects (v7, ustar, pax, GNU): a stream of bytes becomes entries in columns, each with the layer offset of its
 * data. No file tree and no whiteouts, which are tree/'s. No I/O. Runs in the digest workers of an index build.
 */

export { EntryColumns, type EntryFields, type EntryTransfer } from './columns.js';
export {
  ENTRIES_MAX,
  encodeDevice,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  S_IFSOCK,
} from './format.js';
export { printable } from './number.js';
export { packEntries, unpackEntries } from './packed-entries.js';
export { TarParser, type TarSink } from './parser.js';
