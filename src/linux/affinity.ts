import { constants } from 'node:fs';
import * as flags from './flags.js';
import * as sys from './syscalls.js';

/** Room for 8192 CPUs, the kernel's own limit (NR_CPUS). */
const MASK_BYTES = 1024;

/** The calling thread's id, as the kernel and /proc know it. */
export function threadId(): number {
  return sys.syscall(flags.SYS_gettid);
}

/**
 * Keeps threads of this process on one CPU, and releases them to the CPUs on which the thread that made this object could run at
 * that time. Nothing here throws or allocates, because threads that answer requests use it.
 */
export class ThreadPins {
  readonly #all = Buffer.allocUnsafeSlow(MASK_BYTES).fill(0);
  readonly #one = Buffer.allocUnsafeSlow(MASK_BYTES).fill(0);
  readonly #allAddress = sys.addressOf(this.#all);
  readonly #oneAddress = sys.addressOf(this.#one);

  constructor() {
    sys.getAffinity(0, MASK_BYTES, this.#allAddress);
  }

  /** @returns false if threads of this process may not run there */
  pin(thread: number, cpu: number): boolean {
    const byte = cpu >> 3;
    const bit = 1 << (cpu & 7);
    if (byte >= MASK_BYTES || (this.#all[byte]! & bit) === 0) return false;
    this.#one[byte] = bit;
    const result = sys.setAffinity(thread, MASK_BYTES, this.#oneAddress);
    this.#one[byte] = 0;
    return result >= 0;
  }

  release(thread: number): void {
    sys.setAffinity(thread, MASK_BYTES, this.#allAddress);
  }
}

const STAT_BYTES = 1024;
const stat = Buffer.allocUnsafeSlow(STAT_BYTES);
const statAddress = sys.addressOf(stat);
const path = Buffer.alloc(64);
const pathAddress = sys.addressOf(path);
/** proc_pid_stat(5): "processor" is the 39th field; the 2nd is a name in parentheses that may contain anything. */
const FIELDS_AFTER_NAME = 37;

/** The CPU a thread of any process runs on or ran on last; −1: not known. */
export function lastCpuOf(thread: number): number {
  // /proc/T/stat sums the times of all threads of T's process, which takes longer; this file is of one thread.
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
