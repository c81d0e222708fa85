import { existsSync, readFileSync, watch } from 'node:fs';
import { basename, join } from 'node:path';
import { ENDING } from './signals.js';

/** Of a process that was forked and has called no exec yet (linux/sched.h). */
const PF_FORKNOEXEC = 0x40;
const POLL_MS = 2;
const PATIENCE_MS = 1000;

/** Resolves with the time at which a file appears. */
export function whenThere(path: string): { readonly at: Promise<number>; readonly stop: () => void } {
  let stop = (): void => {};
  const at = new Promise<number>((resolve) => {
    const watcher = watch(join(path, '..'), (_event, name) => {
      if (name === basename(path)) resolve(performance.now());
    });
    watcher.on('error', () => {}); // the directory goes with the container
    stop = () => watcher.close();
  });
  return { at, stop };
}

/** The process in a runtime's pid file; null: it has ended. `started`: it is the container's program, and not the runtime about to become it. */
function firstProcess(pidFile: string): { readonly pid: number; readonly started: boolean } | null {
  try {
    const pid = Number(readFileSync(pidFile, 'latin1'));
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // pid (name) state ppid pgrp session tty tpgid flags: the name may hold anything.
    const flags = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[6]);
    return { pid, started: (flags & PF_FORKNOEXEC) === 0 };
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ESRCH') return null;
    throw error;
  }
}

/**
 * Signals on their way to a container's program. Until that runs, its process is the runtime's own, which would die of a signal in its own way
 * (runc's, written in Go, with exit code 2). So they wait for the program. Its first bytes may come from a slow registry: a signal that asks for
 * an end waits PATIENCE_MS, or until it comes again, and then kills what is there.
 */
export class SignalPath {
  readonly #pidFile: string;
  readonly #started: Promise<unknown>;
  readonly #toRuntime: (signal: NodeJS.Signals) => void;
  /** The program never ran: its process was killed before. */
  calledOff = false;
  #asked = false;

  /** @param started resolves when the pid file is there */
  constructor(pidFile: string, started: Promise<unknown>, toRuntime: (signal: NodeJS.Signals) => void) {
    this.#pidFile = pidFile;
    this.#started = started;
    this.#toRuntime = toRuntime;
  }

  async pass(signal: NodeJS.Signals): Promise<void> {
    const ends = ENDING.includes(signal);
    let end = ends ? performance.now() + PATIENCE_MS : Number.POSITIVE_INFINITY;
    if (ends && this.#asked) {
      end = 0;
      if (!existsSync(this.#pidFile)) this.#toRuntime('SIGKILL'); // it hangs
    }
    this.#asked ||= ends;
    await this.#started;
    let first = firstProcess(this.#pidFile);
    while (first?.started === false) {
      if (performance.now() >= end) {
        this.calledOff = true;
        process.kill(first.pid, 'SIGKILL');
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      first = firstProcess(this.#pidFile);
    }
    this.#toRuntime(signal);
  }
}
