import { check } from './errno.js';
import * as flags from './flags.js';
import * as sys from './syscalls.js';

// struct epoll_event {uint32_t events; uint64_t data} is packed on x86-64 and nowhere else (sys/epoll.h, __EPOLL_PACKED).
const DATA_OFFSET = process.arch === 'x64' ? 4 : 8;
const EVENT_SIZE = process.arch === 'x64' ? 12 : 16;

/** An epoll instance with its event buffer. Each descriptor carries a 32-bit token of the caller's choice. Nothing is allocated in {@link wait}. */
export class Epoll {
  readonly fd = check(sys.epollCreate(flags.EPOLL_CLOEXEC), 'epoll_create1');
  private readonly buffer: DataView;
  private readonly address: number;
  private readonly keep: Uint8Array;

  constructor(private readonly maxEvents: number) {
    this.keep = Buffer.allocUnsafeSlow(maxEvents * EVENT_SIZE);
    this.buffer = new DataView(this.keep.buffer);
    this.address = sys.addressOf(this.keep);
  }

  /** Level-triggered. With `exclusive`, of several epoll instances that wait for the same file as few as possible wake. */
  add(fd: number, token: number, exclusive: boolean): void {
    const event = Buffer.alloc(EVENT_SIZE);
    event.writeUInt32LE(flags.EPOLLIN | (exclusive ? flags.EPOLLEXCLUSIVE : 0), 0);
    event.writeUInt32LE(token, DATA_OFFSET);
    check(sys.epollCtl(this.fd, flags.EPOLL_CTL_ADD, fd, event), `epoll_ctl add descriptor ${fd}`);
  }

  remove(fd: number): void {
    check(sys.epollCtl(this.fd, flags.EPOLL_CTL_DEL, fd, Buffer.alloc(EVENT_SIZE)), `epoll_ctl del descriptor ${fd}`);
  }

  /** Waits (−1: for ever) and returns the number of events, 0 also when a signal came. */
  wait(timeoutMs: number): number {
    const count = sys.epollWait(this.fd, this.address, this.maxEvents, timeoutMs);
    if (count === -4) return 0; // EINTR
    return check(count, 'epoll_wait');
  }

  /** Of the `index`th event of the last {@link wait}. */
  token(index: number): number {
    return this.buffer.getUint32(index * EVENT_SIZE + DATA_OFFSET, true);
  }

  events(index: number): number {
    return this.buffer.getUint32(index * EVENT_SIZE, true);
  }

  close(): void {
    check(sys.close(this.fd), 'close epoll');
  }
}
