import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { check, SystemCallError } from './errno.js';
import * as flags from './flags.js';
import * as sys from './syscalls.js';

/** Lets the kernel send this process `signal` when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG). */
export function dieWithParent(signal: NodeJS.Signals = 'SIGKILL'): void {
  check(sys.prctl(flags.PR_SET_PDEATHSIG, constants.signals[signal]), 'prctl PR_SET_PDEATHSIG');
}

/** Gives memory that this process has freed back to the system: glibc keeps it. */
export function releaseHeap(): void {
  sys.mallocTrim();
}

/** Whether a thread exists and has not been killed. True in doubt. */
export function threadLives(thread: number): boolean {
  try {
    process.kill(thread, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH';
  }
  try {
    const stat = readFileSync(`/proc/${thread}/stat`, 'latin1');
    const state = stat.charAt(stat.lastIndexOf(')') + 2); // proc_pid_stat(5)
    return state !== 'Z' && state !== 'X';
  } catch {
    return true;
  }
}

/** Whether the process of a pidfd has not ended: while it is not, its number in /proc is its own. */
export function processLives(pidfd: number): boolean {
  return sys.syscall(flags.SYS_pidfd_send_signal, pidfd, 0, 0, 0) === 0;
}

/**
 * Replaces this process by another program (execv(3)), with the same process id, environment, standard descriptors, terminal and
 * parent. Node's own descriptors close on exec. @throws SystemCallError; does not return otherwise
 */
export function replaceProcess(program: string, args: readonly string[]): never {
  const strings = [program, ...args].map((text) => sys.cString(text));
  const vector = Buffer.alloc(8 * (strings.length + 1));
  strings.forEach((text, i) => {
    vector.writeBigUInt64LE(BigInt(sys.addressOf(text)), 8 * i);
  });
  // Node marks even the standard descriptors close-on-exec (uv_disable_stdio_inheritance).
  for (const fd of [0, 1, 2]) sys.fcntl(fd, flags.F_SETFD, 0);
  const result = sys.execv(program, vector);
  throw new SystemCallError(`execute ${program}`, -result);
}

export interface ProcessEnd {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

const WNOHANG = 1;

/** Takes note of the end of a child that Node has not started (waitpid(2)); null: it has not ended. @throws SystemCallError */
export function reapChild(pid: number): ProcessEnd | null {
  const status = new Int32Array(1);
  const result = sys.waitpid(pid, new Uint8Array(status.buffer), WNOHANG);
  if (check(result, `wait for process ${pid}`) === 0) return null;
  const number = status[0]! & 0x7f;
  if (number === 0) return { code: (status[0]! >> 8) & 0xff, signal: null };
  const [name] = Object.entries(constants.signals).find(([, value]) => value === number) ?? ['SIGKILL'];
  return { code: null, signal: name as NodeJS.Signals };
}
