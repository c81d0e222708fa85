import type { Nid } from '../bytes/index.js';
import { Errno, SystemCallError, sys } from '../linux/index.js';
import { FUSE_NOTIFY_INVAL_INODE, FUSE_NOTIFY_RESEND, INVAL_INODE, INVAL_INODE_SIZE, OUT, OUT_HEADER } from './abi.js';

/** More pieces than this are joined. A read has fewer. */
const MAX_PIECES = 63;

// One thread, one call at a time: the same memory serves every reply.
const header = Buffer.alloc(OUT_HEADER);
const vector = Buffer.alloc((1 + MAX_PIECES) * 16);
const headerAddress = sys.addressOf(header);
const vectorAddress = sys.addressOf(vector);

/** Not errors: the request was interrupted (ENOENT), or the connection has ended. */
function finish(result: number, what: string): void {
  if (result >= 0 || result === -Errno.ENOENT || result === -Errno.ENODEV || result === -Errno.ECONNABORTED) return;
  if (result === -Errno.EPERM) return; // not mounted any more
  throw new SystemCallError(what, -result);
}

function writeHeader(length: number, error: number, unique: bigint): void {
  header.writeUInt32LE(length, OUT.len);
  header.writeInt32LE(error, OUT.error);
  header.writeBigUInt64LE(unique, OUT.unique);
}

/** Answers a request with the concatenation of `data`. From any thread; once per request. */
export function replyData(fd: number, unique: bigint, data: readonly Uint8Array[]): void {
  const pieces = data.length > MAX_PIECES ? [Buffer.concat(data)] : data;
  let length = OUT_HEADER;
  let at = 16;
  for (const piece of pieces) {
    if (piece.length === 0) continue;
    vector.writeBigUInt64LE(BigInt(sys.addressOf(piece)), at);
    vector.writeBigUInt64LE(BigInt(piece.length), at + 8);
    length += piece.length;
    at += 16;
  }
  vector.writeBigUInt64LE(BigInt(headerAddress), 0);
  vector.writeBigUInt64LE(BigInt(OUT_HEADER), 8);
  writeHeader(length, 0, unique);
  finish(sys.writev(fd, vectorAddress, at / 16), 'answer a FUSE request');
}

/** Answers a request with an error. `errno` is positive; 0 is success without data. */
export function replyError(fd: number, unique: bigint, errno: number): void {
  writeHeader(OUT_HEADER, -errno, unique);
  finish(sys.write(fd, headerAddress, OUT_HEADER), 'answer a FUSE request');
}

/**
 * Makes the kernel queue again every request that a dead server had taken and not answered. Call it before the first read of the
 * connection. False if the kernel cannot (Linux < 6.9): those requests stay unanswered until they are interrupted.
 */
export function requestResend(fd: number): boolean {
  writeHeader(OUT_HEADER, FUSE_NOTIFY_RESEND, 0n);
  const result = sys.write(fd, headerAddress, OUT_HEADER);
  if (result === -Errno.EINVAL) return false;
  finish(result, 'ask the kernel to resend FUSE requests');
  return true;
}

/** Makes the kernel drop the pages of [offset, offset + length) of a file. It waits for those that are being read. */
export function dropFilePages(fd: number, nid: Nid, offset: number, length: number): void {
  const message = Buffer.alloc(OUT_HEADER + INVAL_INODE_SIZE);
  message.writeUInt32LE(message.length, OUT.len);
  message.writeInt32LE(FUSE_NOTIFY_INVAL_INODE, OUT.error);
  message.writeBigUInt64LE(BigInt(nid), OUT_HEADER + INVAL_INODE.ino);
  message.writeBigInt64LE(BigInt(offset), OUT_HEADER + INVAL_INODE.offset);
  message.writeBigInt64LE(BigInt(length), OUT_HEADER + INVAL_INODE.length);
  // ENOENT: the kernel does not have the file.
  finish(sys.write(fd, sys.addressOf(message), message.length), 'drop pages of a file');
}
