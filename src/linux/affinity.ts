import { constants } from 'node:fs';
import * as flags from './flags.js';
import * as sys from './syscalls.js';

/** Room for 8192 CPUs, the kernel's own limit (NR_CPUS). */
const MASK_BYTES = 1024;

/** On which CPUs the calling thread may run. Nothing here throws or allocates: it is for threads that answer requests. */
export class ThreadAffinity {
  /** The only CPU the thread may run on; −1: it may run where it could before. */
  pinned = -1;
  readonly #before = Buffer.allocUnsafeSlow(MASK_BYTES);
  readonly #one = Buffer.allocUnsafeSlow(MASK_BYTES).fill(0);
  readonly #beforeAddress = sys.addressOf(this.#before);
  readonly #oneAddress = sys.addressOf(this.#one);

  /** Moves the thread to one CPU, if it may run there. */
  pin(cpu: number): void {
    if (this.pinned === cpu) return;
    if (this.pinned < 0 && sys.getAffinity(MASK_BYTES, this.#beforeAddress) < 0) return;
    const byte = cpu >> 3;
    const bit = 1 << (cpu & 7);
    if (byte >= MASK_BYTES || (this.#before[byte]! & bit) === 0) return;
    this.#one[byte] = bit;
    if (sys.setAffinity(MASK_BYTES, this.#oneAddress) >= 0) this.pinned = cpu;
    this.#one[byte] = 0;
  }

  /** Lets it run where it could before {@link pin}. */
  release(): void {
    if (this.pinned < 0) return;
    this.pinned = -1;
    sys.setAffinity(MASK_BYTES, this.#beforeAddress);
  }
}

const STAT_BYTES = 1024;
const stat = Buffer.allocUnsafeSlow(STAT_BYTES);
const statAddress = sys.addressOf(stat);
const path = Buffer.alloc(64);
const pathAddress = sys.addressOf(path);
/** proc_pid_stat(5): "processor" is the 39th field; the 2nd is a name in parentheses that may hold anything. */
const FIELDS_AFTER_NAME = 37;

/** The CPU a thread (any of this process id namespace) runs on or ran on last; −1: not known. Neither throws. */
export function lastCpuOf(thread: number): number {
  // /proc/T/stat adds up the times of all threads of T's process; this one does not.
  path.write(`/proc/${thread}/task/${thread}/stat\0`, 'latin1');
  const fd = sys.open(pathAddress, constants.O_RDONLY | flags.O_CLOEXEC);
  if (fd < 0) return -1;
  const length = sys.read(fd, statAddress, STAT_BYTES);
  sys.close(fd);
  if (length <= 0) return -1;
  let at = stat.subarray(0, length).lastIndexOf(0x29) + 1;
  for (let field = 0; field < FIELDS_AFTER_NAME; field++) {
    at = stat.indexOf(0x20, at) + 1;
    if (at === 0 || at >= length) return -1;
  }
  let cpu = 0;
  for (let digit = stat[at]! - 0x30; digit >= 0 && digit <= 9; digit = stat[++at]! - 0x30) cpu = cpu * 10 + digit;
  return cpu;
}
