import { constants } from 'node:os';
import { check } from './errno.js';
import * as flags from './flags.js';
import * as sys from './syscalls.js';

/** The kernel sends this process `signal` when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG). */
export function dieWithParent(signal: NodeJS.Signals = 'SIGKILL'): void {
  check(sys.prctl(flags.PR_SET_PDEATHSIG, constants.signals[signal]), 'prctl PR_SET_PDEATHSIG');
}
