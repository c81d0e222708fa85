import { check, SystemCallError } from './errno.js';
import * as flags from './flags.js';
import * as sys from './syscalls.js';

/** A connected pair of unix sockets, both closed on exec (hand one to a child through spawn's `stdio`). */
export function socketPair(type: 'stream' | 'seqpacket', nonBlocking = false): [number, number] {
  const fds = new Int32Array(2);
  const kind = type === 'stream' ? flags.SOCK_STREAM : flags.SOCK_SEQPACKET;
  const mode = flags.SOCK_CLOEXEC | (nonBlocking ? flags.SOCK_NONBLOCK : 0);
  check(sys.socketpair(flags.AF_UNIX, kind | mode, new Uint8Array(fds.buffer)), 'socketpair');
  return [fds[0]!, fds[1]!];
}

/** sockaddr_un.sun_path with its NUL. */
const SUN_PATH = 108;

/**
 * A unix socket that is to listen, made without Node so that its descriptor can be given to a child (`server.listen({fd})`) and clients
 * wait in its backlog while that child is replaced. The child may be started before the path is known.
 * @param mode access bits of the socket file from the first moment on, because fchmod(2) comes before bind(2)
 */
export function unixSocket(mode = 0o600): number {
  const call = 'make a unix socket';
  const fd = check(sys.socket(flags.AF_UNIX, flags.SOCK_STREAM | flags.SOCK_CLOEXEC | flags.SOCK_NONBLOCK), call);
  check(sys.fchmod(fd, mode), call);
  return fd;
}

/** Lets a socket of unixSocket() listen at a path. */
export function listenUnix(fd: number, path: string, backlog = 511): void {
  const name = Buffer.from(path, 'utf8');
  const call = `listen on ${path}`;
  if (name.length >= SUN_PATH)
    throw new SystemCallError(call, 36, `a unix socket path has at most ${SUN_PATH - 1} bytes`);
  const address = Buffer.alloc(2 + SUN_PATH);
  address.writeUInt16LE(flags.AF_UNIX, 0);
  name.copy(address, 2);
  check(sys.bindSocket(fd, address, 2 + name.length + 1), call);
  check(sys.listen(fd, backlog), call);
}

/** The process at the other end of a unix socket, as it was when it connected (or listened): unix(7), SO_PEERCRED. */
export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

/** @throws SystemCallError */
export function peerCredentials(fd: number): PeerCredentials {
  const credentials = Buffer.alloc(12); // struct ucred {pid_t pid; uid_t uid; gid_t gid}
  const length = Buffer.alloc(4);
  length.writeUInt32LE(credentials.length, 0);
  const call = `credentials of the peer of descriptor ${fd}`;
  check(sys.getsockopt(fd, flags.SOL_SOCKET, flags.SO_PEERCRED, credentials, length), call);
  return { pid: credentials.readInt32LE(0), uid: credentials.readUInt32LE(4), gid: credentials.readUInt32LE(8) };
}

/**
 * The same process as a descriptor (pidfd), whose number no other process can take: SO_PEERPIDFD (Linux 6.5). The caller closes it.
 * @throws SystemCallError
 */
export function peerProcess(fd: number): number {
  const process = Buffer.alloc(4);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(process.length, 0);
  const call = `process of the peer of descriptor ${fd}`;
  check(sys.getsockopt(fd, flags.SOL_SOCKET, flags.SO_PEERPIDFD, process, length), call);
  return process.readInt32LE(0);
}

const CMSG_HEADER = 16;
/** The kernel passes at most 253 descriptors in one message (SCM_MAX_FD). */
const MAX_FDS = 253;

/** struct msghdr with one iovec and a control buffer; the returned arrays must stay alive until the call is over. */
function messageHeader(data: Uint8Array, control: Uint8Array | null): { header: Buffer; iovec: Buffer } {
  const iovec = Buffer.alloc(16);
  iovec.writeBigUInt64LE(BigInt(sys.addressOf(data)), 0);
  iovec.writeBigUInt64LE(BigInt(data.length), 8);
  const header = Buffer.alloc(56);
  header.writeBigUInt64LE(BigInt(sys.addressOf(iovec)), 16);
  header.writeBigUInt64LE(1n, 24);
  if (control) {
    header.writeBigUInt64LE(BigInt(sys.addressOf(control)), 32);
    header.writeBigUInt64LE(BigInt(control.length), 40);
  }
  return { header, iovec };
}

/** Sends bytes (at least one) and descriptors, which the other side gets as its own copies. */
export function sendDescriptors(socket: number, data: Uint8Array, fds: readonly number[]): void {
  if (data.length === 0) throw new RangeError('a message with descriptors needs at least one byte');
  if (fds.length > MAX_FDS) throw new RangeError(`at most ${MAX_FDS} descriptors fit one message`);
  let control: Buffer | null = null;
  if (fds.length > 0) {
    const length = CMSG_HEADER + 4 * fds.length;
    control = Buffer.alloc((length + 7) & ~7);
    control.writeBigUInt64LE(BigInt(length), 0);
    control.writeInt32LE(flags.SOL_SOCKET, 8);
    control.writeInt32LE(flags.SCM_RIGHTS, 12);
    for (const [i, fd] of fds.entries()) control.writeInt32LE(fd, CMSG_HEADER + 4 * i);
  }
  const message = messageHeader(data, control);
  const sent = check(sys.sendmsg(socket, message.header, flags.MSG_NOSIGNAL), `send ${fds.length} descriptors`);
  if (sent !== data.length)
    throw new SystemCallError(`send ${fds.length} descriptors`, 11, `${sent} of ${data.length} bytes were sent`);
}

/**
 * Receives one message: at most `maxLength` bytes and its descriptors, closed on exec. Null at the end of the stream;
 * undefined if the socket is non-blocking (or `wait` is false) and has no message.
 */
export function receiveDescriptors(
  socket: number,
  maxLength = 65536,
  wait = true,
): { data: Buffer; fds: number[] } | null | undefined {
  const data = Buffer.allocUnsafeSlow(maxLength);
  const control = Buffer.alloc(CMSG_HEADER + 4 * MAX_FDS + 4);
  const message = messageHeader(data, control);
  let received: number;
  do {
    received = sys.recvmsg(socket, message.header, flags.MSG_CMSG_CLOEXEC | (wait ? 0 : flags.MSG_DONTWAIT));
  } while (received === -4); // EINTR
  if (received === -11) return undefined; // EAGAIN
  check(received, 'receive descriptors');
  const fds: number[] = [];
  const controlLength = Number(message.header.readBigUInt64LE(40));
  for (let at = 0; at + CMSG_HEADER <= controlLength; ) {
    const length = Number(control.readBigUInt64LE(at));
    if (length < CMSG_HEADER) break;
    if (control.readInt32LE(at + 8) === flags.SOL_SOCKET && control.readInt32LE(at + 12) === flags.SCM_RIGHTS) {
      for (let p = at + CMSG_HEADER; p + 4 <= at + length; p += 4) fds.push(control.readInt32LE(p));
    }
    at += (length + 7) & ~7;
  }
  if ((message.header.readInt32LE(48) & flags.MSG_CTRUNC) !== 0) {
    for (const fd of fds) sys.close(fd);
    throw new SystemCallError('receive descriptors', 24, 'the kernel dropped some, because no descriptors are free');
  }
  if (received === 0 && fds.length === 0) return null;
  return { data: data.subarray(0, received), fds };
}
