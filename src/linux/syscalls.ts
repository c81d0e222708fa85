/**
 * The system calls that Node lacks. This is the only place where the C library is
 * called. Nothing here throws for a failed call: each function returns the call's result, or −errno.
 *
 * Paths are `Buffer`s that end in NUL (see {@link cString}) or strings. Memory is a `Buffer` (also one over a
 * SharedArrayBuffer) or an address as a number, taken once with {@link addressOf}: a number allows offsets into one
 * large buffer without a view for each call. A caller that passes a number keeps the buffer alive.
 *
 * 64-bit little-endian Linux only: struct layouts below are those of x86-64 and arm64.
 */
import { loadKoffi } from './koffi.js';

export type Memory = Uint8Array | number | null;
export type Path = string | Uint8Array;

const koffi = loadKoffi();
// dlopen(NULL): the C library Node itself is linked with, glibc or musl.
const libc = koffi.load(null);

type Call<A extends unknown[]> = (...args: A) => number;
function bind<A extends unknown[]>(name: string, result: string, args: string[]): Call<A> {
  return libc.func(name, result, args) as Call<A>;
}

// Variadic functions (open, fcntl, ioctl, syscall) are declared with the arguments used here: on Linux both ABIs pass them alike.
const c = {
  read: bind<[number, Memory, number]>('read', 'int64_t', ['int', 'void *', 'size_t']),
  write: bind<[number, Memory, number]>('write', 'int64_t', ['int', 'void *', 'size_t']),
  pread: bind<[number, Memory, number, number]>('pread', 'int64_t', ['int', 'void *', 'size_t', 'int64_t']),
  preadv2: bind<[number, Memory, number, number, number]>('preadv2', 'int64_t', [
    'int',
    'void *',
    'int',
    'int64_t',
    'int',
  ]),
  writev: bind<[number, Memory, number]>('writev', 'int64_t', ['int', 'void *', 'int']),
  open: bind<[Memory, number]>('open', 'int', ['void *', 'int']),
  close: bind<[number]>('close', 'int', ['int']),
  fcntl: bind<[number, number, number]>('fcntl', 'int', ['int', 'int', 'int64_t']),
  ioctl: bind<[number, number, Memory]>('ioctl', 'int', ['int', 'uint64_t', 'void *']),
  fallocate: bind<[number, number, number, number]>('fallocate', 'int', ['int', 'int', 'int64_t', 'int64_t']),
  dup3: bind<[number, number, number]>('dup3', 'int', ['int', 'int', 'int']),
  sync_file_range: bind<[number, number, number, number]>('sync_file_range', 'int', [
    'int',
    'int64_t',
    'int64_t',
    'uint32_t',
  ]),
  flock: bind<[number, number]>('flock', 'int', ['int', 'int']),
  fchmod: bind<[number, number]>('fchmod', 'int', ['int', 'uint32_t']),
  lseek: bind<[number, number, number]>('lseek', 'int64_t', ['int', 'int64_t', 'int']),
  mount: bind<[Memory, Memory, Memory, number, Memory]>('mount', 'int', [
    'void *',
    'void *',
    'void *',
    'uint64_t',
    'void *',
  ]),
  umount2: bind<[Memory, number]>('umount2', 'int', ['void *', 'int']),
  syscall: bind<[number, number | bigint, number | bigint, number | bigint, number | bigint, number | bigint]>(
    'syscall',
    'int64_t',
    ['int64_t', 'int64_t', 'int64_t', 'int64_t', 'int64_t', 'int64_t'],
  ),
  epoll_create1: bind<[number]>('epoll_create1', 'int', ['int']),
  epoll_ctl: bind<[number, number, number, Memory]>('epoll_ctl', 'int', ['int', 'int', 'int', 'void *']),
  epoll_wait: bind<[number, Memory, number, number]>('epoll_wait', 'int', ['int', 'void *', 'int', 'int']),
  eventfd: bind<[number, number]>('eventfd', 'int', ['uint32_t', 'int']),
  socket: bind<[number, number, number]>('socket', 'int', ['int', 'int', 'int']),
  socketpair: bind<[number, number, number, Memory]>('socketpair', 'int', ['int', 'int', 'int', 'void *']),
  bind: bind<[number, Memory, number]>('bind', 'int', ['int', 'void *', 'uint32_t']),
  listen: bind<[number, number]>('listen', 'int', ['int', 'int']),
  getsockopt: bind<[number, number, number, Memory, Memory]>('getsockopt', 'int', [
    'int',
    'int',
    'int',
    'void *',
    'void *',
  ]),
  sendmsg: bind<[number, Memory, number]>('sendmsg', 'int64_t', ['int', 'void *', 'int']),
  recvmsg: bind<[number, Memory, number]>('recvmsg', 'int64_t', ['int', 'void *', 'int']),
  waitpid: bind<[number, Memory, number]>('waitpid', 'int', ['int', 'void *', 'int']),
  execv: bind<[Memory, Memory]>('execv', 'int', ['void *', 'void *']),
  prctl: bind<[number, number, number, number, number]>('prctl', 'int', [
    'int',
    'uint64_t',
    'uint64_t',
    'uint64_t',
    'uint64_t',
  ]),
  sched_getaffinity: bind<[number, number, Memory]>('sched_getaffinity', 'int', ['int', 'size_t', 'void *']),
  sched_setaffinity: bind<[number, number, Memory]>('sched_setaffinity', 'int', ['int', 'size_t', 'void *']),
  utimensat: bind<[number, Memory, Memory, number]>('utimensat', 'int', ['int', 'void *', 'void *', 'int']),
  mknod: bind<[Memory, number, number]>('mknod', 'int', ['void *', 'uint32_t', 'uint64_t']),
  futimens: bind<[number, Memory]>('futimens', 'int', ['int', 'void *']),
  lgetxattr: bind<[Memory, Memory, Memory, number]>('lgetxattr', 'int64_t', ['void *', 'void *', 'void *', 'size_t']),
  statx: bind<[number, Memory, number, number, Memory]>('statx', 'int', ['int', 'void *', 'int', 'uint32_t', 'void *']),
  llistxattr: bind<[Memory, Memory, number]>('llistxattr', 'int64_t', ['void *', 'void *', 'size_t']),
  lsetxattr: bind<[Memory, Memory, Memory, number, number]>('lsetxattr', 'int', [
    'void *',
    'void *',
    'void *',
    'size_t',
    'int',
  ]),
};

/** Undefined: not looked for yet. Null: musl has none. */
let trim: Call<[number]> | null | undefined;

/** malloc_trim(3). */
export function mallocTrim(): void {
  if (trim === undefined) {
    try {
      trim = bind<[number]>('malloc_trim', 'int', ['size_t']);
    } catch {
      trim = null;
    }
  }
  trim?.(0);
}

/** A failed call returned −1: fetch its errno before anything else runs. */
const outcome = (result: number): number => (result < 0 ? -koffi.errno() : result);

/** The bytes of a path or name with a NUL at the end. */
export function cString(text: Path): Buffer {
  if (typeof text === 'string') return Buffer.from(`${text}\0`, 'utf8');
  const bytes = Buffer.alloc(text.length + 1);
  bytes.set(text);
  return bytes;
}

/** The address of a buffer's bytes. Valid while the buffer is alive and its ArrayBuffer is neither detached nor resized. */
export function addressOf(buffer: Uint8Array): number {
  // V8 keeps arrays of up to 64 bytes inside its moving heap until their ArrayBuffer is used.
  if (buffer.buffer.byteLength < buffer.length) throw new RangeError('detached buffer');
  // User-space addresses have at most 47 bits (56 with 5-level paging, which is opt-in): safe integers.
  return Number(koffi.address(buffer));
}

export const read = (fd: number, memory: Memory, length: number): number => outcome(c.read(fd, memory, length));
export const write = (fd: number, memory: Memory, length: number): number => outcome(c.write(fd, memory, length));
export const pread = (fd: number, memory: Memory, length: number, offset: number): number =>
  outcome(c.pread(fd, memory, length, offset));
/** `vector` as for {@link writev}; flags RWF_…. */
export const preadv2 = (fd: number, vector: Memory, count: number, offset: number, flags: number): number =>
  outcome(c.preadv2(fd, vector, count, offset, flags));
/** `vector` holds `count` struct iovec: address and length, 8 bytes each. */
export const writev = (fd: number, vector: Memory, count: number): number => outcome(c.writev(fd, vector, count));
/** Without O_CREAT. `path` ends in NUL. */
export const open = (path: Memory, flags: number): number => outcome(c.open(path, flags));
export const close = (fd: number): number => outcome(c.close(fd));
export const fcntl = (fd: number, command: number, argument: number): number => outcome(c.fcntl(fd, command, argument));
export const ioctl = (fd: number, request: number, memory: Memory): number => outcome(c.ioctl(fd, request, memory));
export const fallocate = (fd: number, mode: number, offset: number, length: number): number =>
  outcome(c.fallocate(fd, mode, offset, length));
export const dup3 = (fd: number, to: number, flags: number): number => outcome(c.dup3(fd, to, flags));
export const syncFileRange = (fd: number, offset: number, length: number, flags: number): number =>
  outcome(c.sync_file_range(fd, offset, length, flags));
export const flock = (fd: number, operation: number): number => outcome(c.flock(fd, operation));
export const fchmod = (fd: number, mode: number): number => outcome(c.fchmod(fd, mode));
export const lseek = (fd: number, offset: number, whence: number): number => outcome(c.lseek(fd, offset, whence));
export const mount = (source: Path, target: Path, type: Path | null, flags: number, data: Path | null): number =>
  outcome(
    c.mount(
      cString(source),
      cString(target),
      type === null ? null : cString(type),
      flags,
      data === null ? null : cString(data),
    ),
  );
export const umount2 = (target: Path, flags: number): number => outcome(c.umount2(cString(target), flags));
/** Any call by number, with up to five arguments; memory as addresses. */
export const syscall = (number: number, a = 0, b = 0, c2 = 0, d = 0, e = 0): number =>
  outcome(c.syscall(number, a, b, c2, d, e));
export const epollCreate = (flags: number): number => outcome(c.epoll_create1(flags));
export const epollCtl = (epoll: number, operation: number, fd: number, event: Memory): number =>
  outcome(c.epoll_ctl(epoll, operation, fd, event));
export const epollWait = (epoll: number, events: Memory, max: number, timeoutMs: number): number =>
  outcome(c.epoll_wait(epoll, events, max, timeoutMs));
export const eventfd = (initial: number, flags: number): number => outcome(c.eventfd(initial, flags));
export const socket = (domain: number, type: number): number => outcome(c.socket(domain, type, 0));
export const socketpair = (domain: number, type: number, fds: Memory): number =>
  outcome(c.socketpair(domain, type, 0, fds));
export const bindSocket = (fd: number, address: Memory, length: number): number => outcome(c.bind(fd, address, length));
export const listen = (fd: number, backlog: number): number => outcome(c.listen(fd, backlog));
/** `length`: a u32, the room in `value` before the call and the bytes written after it. */
export const getsockopt = (fd: number, level: number, option: number, value: Memory, length: Memory): number =>
  outcome(c.getsockopt(fd, level, option, value, length));
export const sendmsg = (fd: number, header: Memory, flags: number): number => outcome(c.sendmsg(fd, header, flags));
export const recvmsg = (fd: number, header: Memory, flags: number): number => outcome(c.recvmsg(fd, header, flags));
/** `vector`: addresses of NUL-terminated strings, 8 bytes each, the last 0. Returns only when it failed. */
export const execv = (path: Path, vector: Memory): number => outcome(c.execv(cString(path), vector));
/** `status`: an i32. */
export const waitpid = (pid: number, status: Memory, options: number): number =>
  outcome(c.waitpid(pid, status, options));
export const prctl = (option: number, a = 0, b = 0, c2 = 0, d = 0): number => outcome(c.prctl(option, a, b, c2, d));
/** Of a thread of this process; 0: the calling one. `mask` holds one bit per CPU. */
export const getAffinity = (thread: number, length: number, mask: Memory): number =>
  outcome(c.sched_getaffinity(thread, length, mask));
export const setAffinity = (thread: number, length: number, mask: Memory): number =>
  outcome(c.sched_setaffinity(thread, length, mask));
/** `times` holds two struct timespec: of access and of modification. */
export const utimensat = (path: Path, times: Memory, flags: number): number =>
  outcome(c.utimensat(-100, cString(path), times, flags));
export const mknod = (path: Path, mode: number, device: number): number =>
  outcome(c.mknod(cString(path), mode, device));
export const futimens = (fd: number, times: Memory): number => outcome(c.futimens(fd, times));
export const lgetxattr = (path: Path, name: Path, value: Memory, size: number): number =>
  outcome(c.lgetxattr(cString(path), cString(name), value, size));
/** `path` ends in NUL; `status`: struct statx, 256 bytes. */
export const statx = (dir: number, path: Uint8Array, how: number, mask: number, status: Memory): number =>
  outcome(c.statx(dir, path, how, mask, status));
export const llistxattr = (path: Path, list: Memory, size: number): number =>
  outcome(c.llistxattr(cString(path), list, size));
export const lsetxattr = (path: Path, name: Path, value: Uint8Array, flags: number): number =>
  outcome(c.lsetxattr(cString(path), cString(name), value, value.length, flags));
