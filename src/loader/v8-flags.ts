import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/*
 * V8 takes compiled code only under the flags under which it was made. Node's own modules come with code made under none, so a single V8 flag
 * on a command line makes a process and each of its threads parse them anew (docs/benchmarks.md, "Memory and start of processes"). Programs
 * are therefore started without, and set what they need once they are loaded.
 */

let collect: (() => void) | null = null;
/** Threads that do the same at the same moment may take the flag from each other: each has it for a millisecond, once. */
const MAX_TRIES = 20;

/** From now on this process's code stays as it is. For a process that does little, and has kept its compiled code. */
export function leaveUnoptimized(): void {
  setFlagsFromString('--no-opt');
}

/** V8 gives the function to contexts that are made while the flag is set. Null: another thread has just taken the flag back. */
function exposedCollect(): (() => void) | null {
  setFlagsFromString('--expose-gc');
  const found = runInNewContext('globalThis.gc') as (() => void) | undefined;
  setFlagsFromString('--no-expose-gc');
  return found ?? null;
}

/**
 * Frees what this thread uses no more: V8 does not count shared memory when it decides to collect. What is left is moved together, because V8
 * gives back whole pages of 256 KiB only (docs/benchmarks.md, "Memory and start of processes"). Takes some 10 ms.
 */
export function collectGarbage(): void {
  for (let tries = 0; collect === null && tries < MAX_TRIES; tries++) collect = exposedCollect();
  if (collect === null) return;
  // Of all threads: if another one collects meanwhile, that takes longer.
  setFlagsFromString('--compact-on-every-full-gc');
  collect();
  collect(); // what the first one found is freed by the next
  setFlagsFromString('--no-compact-on-every-full-gc');
}
