import { check, errnoName } from './errno.js';
import * as flags from './flags.js';
import * as sys from './syscalls.js';

const PAGE = 4096;

export function closeFd(fd: number): void {
  check(sys.close(fd), `close descriptor ${fd}`);
}

/** Applies to the open file, and so to every descriptor that shares it. */
export function setNonBlocking(fd: number): void {
  const current = check(sys.fcntl(fd, flags.F_GETFL, 0), `fcntl descriptor ${fd}`);
  if ((current & flags.O_NONBLOCK) === 0) {
    check(sys.fcntl(fd, flags.F_SETFL, current | flags.O_NONBLOCK), `fcntl descriptor ${fd}`);
  }
}

/** Frees [offset, offset + length) of a file, which then reads as zeros; its size stays. The kernel frees whole blocks and zeroes the rest. */
export function punchHole(fd: number, offset: number, length: number): void {
  check(
    sys.fallocate(fd, flags.FALLOC_FL_PUNCH_HOLE | flags.FALLOC_FL_KEEP_SIZE, offset, length),
    `punch a hole of ${length} bytes at ${offset} in descriptor ${fd}`,
  );
}

/** From now on `fd` refers to the file of `by`, in all threads at once; `by` stays open. */
export function replaceDescriptor(fd: number, by: number): void {
  check(sys.dup3(by, fd, flags.O_CLOEXEC), `replace descriptor ${fd} by ${by}`);
}

/** Lets the kernel forget the pages that it has of a stretch of a file, but for those that are mapped, locked or not written yet. */
export function dropCachedPages(fd: number, offset: number, length: number): void {
  const start = Math.floor(offset / PAGE) * PAGE; // of a page only the whole
  const end = Math.ceil((offset + length) / PAGE) * PAGE;
  check(sys.syscall(flags.SYS_fadvise64, fd, start, end - start, flags.POSIX_FADV_DONTNEED), 'drop pages');
}

/** struct statx; of it stx_mask, stx_dio_mem_align and stx_dio_offset_align. */
const STATX = { bytes: 256, mask: 0, memoryAlign: 0x98, offsetAlign: 0x9c } as const;

/** Whether a file may be read with O_DIRECT at multiples of `unit` bytes, in the file and in memory. False where the kernel does not say. */
export function readsDirectly(fd: number, unit: number): boolean {
  const stat = Buffer.alloc(STATX.bytes);
  const path = sys.cString('');
  const found = sys.syscall(
    flags.SYS_statx,
    fd,
    sys.addressOf(path),
    flags.AT_EMPTY_PATH,
    flags.STATX_DIOALIGN,
    sys.addressOf(stat),
  );
  if (found < 0 || (stat.readUInt32LE(STATX.mask) & flags.STATX_DIOALIGN) === 0) return false;
  const [memory, offset] = [stat.readUInt32LE(STATX.memoryAlign), stat.readUInt32LE(STATX.offsetAlign)];
  return memory > 0 && offset > 0 && unit % memory === 0 && unit % offset === 0;
}

/** Beyond the end of every file: there are no pages there, so the call does not wait. Offset + length must not pass 2^63. */
const BEYOND = 2 ** 52;

/** Any other error says that this file system lacks the call. */
const LOST: ReadonlySet<string> = new Set(['EIO', 'ENOSPC', 'EDQUOT']);

/**
 * The name of the error if the kernel has failed to write this file back to the disk since the last such question (by fsync or this
 * function), else null. Cheap, and never waits for the disk.
 */
export function writebackError(fd: number): string | null {
  const result = sys.syncFileRange(fd, BEYOND, 1, flags.SYNC_FILE_RANGE_WAIT_BEFORE);
  const name = result < 0 ? errnoName(-result) : '';
  return LOST.has(name) ? name : null;
}

/** Takes the BSD lock of an open file; false if another open file has it. It ends with the file's last descriptor. */
export function tryLock(fd: number): boolean {
  const result = sys.flock(fd, flags.LOCK_EX | flags.LOCK_NB);
  if (result === -11) return false; // EAGAIN
  check(result, `lock descriptor ${fd}`);
  return true;
}

/** A counter that wakes the threads that poll it. Non-blocking. */
export function createEventFd(): number {
  return check(sys.eventfd(0, flags.EFD_CLOEXEC | flags.EFD_NONBLOCK), 'eventfd');
}

const one = new Uint8Array(new BigUint64Array([1n]).buffer);

/** Adds 1 to an eventfd. */
export function signalEventFd(fd: number): void {
  check(sys.write(fd, one, 8), `write eventfd ${fd}`);
}
