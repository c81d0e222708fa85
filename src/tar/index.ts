export { EntryColumns, type EntryFields, type EntryTransfer } from './columns.js';
export { encodeDevice, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK } from './format.js';
export { printable } from './number.js';
export { TarParser, type TarSink } from './parser.js';
