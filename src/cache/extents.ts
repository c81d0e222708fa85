import { sys } from '../linux/index.js';

// unistd.h
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const ENXIO = 6;

/**
 * Calls `cb` for each stretch of a sparse file, from `from` up to `size`, that holds data. A file system that
 * cannot tell reports everything as data: the caller only learns what *may* be there.
 */
export function dataExtents(fd: number, size: number, cb: (start: number, end: number) => void, from = 0): void {
  for (let at = from; at < size; ) {
    const start = sys.lseek(fd, at, SEEK_DATA);
    if (start === -ENXIO) return; // only a hole from here to the end
    const end = start < 0 ? -1 : sys.lseek(fd, start, SEEK_HOLE);
    if (end < 0) {
      cb(at, size);
      return;
    }
    if (start < size) cb(start, Math.min(end, size));
    at = end;
  }
}
