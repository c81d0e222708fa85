import { runInNewContext } from 'node:vm';

/*
 * V8 takes compiled code only under the flags under which it was made. Node's own modules come with code made under none, so a single V8 flag
 * on a command line makes a process and each of its threads parse them anew (docs/benchmarks.md, "Memory and start of processes"). Programs
 * are therefore started without, and set what they need once they are loaded.
 */

/** Not imported: loading it takes 4 ms, which a start has not. */
function setFlag(flag: string): void {
  process.getBuiltinModule('node:v8').setFlagsFromString(flag);
}

let collect: (() => void) | null = null;
/** Threads that do the same at the same moment may take the flag from each other: each has it for a millisecond, once. */
const MAX_TRIES = 20;

/** From now on this process's code stays as it is. For a process that does little, and has kept its compiled code. */
export function leaveUnoptimized(): void {
  setFlag('--no-opt');
}

/** V8 gives the function to contexts that are made while the flag is set. Null: another thread has just taken the flag back. */
function exposedCollect(): (() => void) | null {
  setFlag('--expose-gc');
  const found = runInNewContext('globalThis.gc') as (() => void) | undefined;
  setFlag('--no-expose-gc');
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
  setFlag('--compact-on-every-full-gc');
  collect();
  collect(); // what the first one found is freed by the next
  setFlag('--no-compact-on-every-full-gc');
}
