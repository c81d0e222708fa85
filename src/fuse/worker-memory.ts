import { Errno, flags, sys } from '../linux/index.js';
import { MAX_READ, OUT_HEADER } from './abi.js';

const PAGE = 4096;
/** One request: max_write is 4 KiB; the rest lets the kernel put many FORGETs into one BATCH_FORGET. */
export const REQUEST_SIZE = 64 * 1024;

/** A worker's buffers, by address, so that no call makes a view. */
export class WorkerMemory {
  readonly request: Uint8Array;
  readonly reply: Uint8Array;
  readonly requestAddress: number;
  readonly replyAddress: number;
  readonly #memory: Buffer;
  readonly #vector = new DataView(new ArrayBuffer(64 * 1024), 0, 16);
  readonly #vectorAddress: number;

  constructor() {
    // The reply's data starts on a page, so that the kernel copies whole pages from it; the header lies just before.
    this.#memory = Buffer.allocUnsafeSlow(REQUEST_SIZE + 2 * PAGE + MAX_READ);
    const base = sys.addressOf(this.#memory);
    const replyStart = Math.ceil((base + REQUEST_SIZE + OUT_HEADER) / PAGE) * PAGE - OUT_HEADER - base;
    this.request = this.#memory.subarray(0, REQUEST_SIZE);
    this.reply = this.#memory.subarray(replyStart, replyStart + OUT_HEADER + MAX_READ);
    this.requestAddress = base;
    this.replyAddress = base + replyStart;
    this.#vectorAddress = sys.addressOf(new Uint8Array(this.#vector.buffer));
  }

  /**
   * pread(2) to `position` of the reply, whole or to the end of the file. Calls `beforeWaiting` first when the page cache
   * has not got everything and the disk must be waited for.
   */
  readFile(fd: number, position: number, length: number, offset: number, beforeWaiting: () => void): number {
    const address = this.replyAddress + position;
    const vector = this.#vector;
    vector.setUint32(0, address, true);
    vector.setUint32(4, address / 0x1_0000_0000, true);
    vector.setUint32(8, length, true);
    vector.setUint32(12, 0, true);
    const ready = sys.preadv2(fd, this.#vectorAddress, 1, offset, flags.RWF_NOWAIT);
    if (ready === length) return ready;
    if (ready < 0 && ready !== -Errno.EAGAIN && ready !== -Errno.EOPNOTSUPP) return ready;
    beforeWaiting();
    const done = Math.max(ready, 0);
    const rest = sys.pread(fd, address + done, length - done, offset + done);
    return rest < 0 ? rest : done + rest;
  }
}
