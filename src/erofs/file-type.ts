import { S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK } from './format.js';

export type FileType = 'file' | 'directory' | 'symlink' | 'character device' | 'block device' | 'fifo' | 'socket';

const TYPES: ReadonlyMap<number, FileType> = new Map([
  [S_IFREG, 'file'],
  [S_IFDIR, 'directory'],
  [S_IFLNK, 'symlink'],
  [S_IFCHR, 'character device'],
  [S_IFBLK, 'block device'],
  [S_IFIFO, 'fifo'],
  [S_IFSOCK, 'socket'],
]);

/** By the mode of an inode that the reader accepted: it refuses other types. */
export function fileType(mode: number): FileType {
  return TYPES.get(mode & S_IFMT)!;
}
