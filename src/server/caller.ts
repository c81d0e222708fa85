import { readFileSync } from 'node:fs';

/** The process that a read comes from. */
export interface Caller {
  readonly pid: number;
  /** The name of its program, as ps(1) shows it; not its arguments, which may hold secrets. */
  readonly command: string;
  readonly container: string | null;
}

/** A thread's process does not change, and its number is used again seconds later at the earliest. */
const KEPT_MS = 1000;
const MAX_KEPT = 1024;

/** Finds processes by their threads, and remembers them for a moment. */
export class Callers {
  readonly #known = new Map<number, { readonly caller: Caller | null; readonly until: number }>();

  /** Null: the thread is unknown here, or has ended. */
  of(thread: number): Caller | null {
    if (thread === 0) return null;
    const now = performance.now();
    const known = this.#known.get(thread);
    if (known !== undefined && known.until > now) return known.caller;
    if (this.#known.size >= MAX_KEPT) this.#known.clear();
    const caller = look(thread);
    this.#known.set(thread, { caller, until: now + KEPT_MS });
    return caller;
  }
}

function look(thread: number): Caller | null {
  try {
    const pid = Number(/^Tgid:\s+(\d+)$/m.exec(readFileSync(`/proc/${thread}/status`, 'latin1'))?.[1] ?? thread);
    const command = readFileSync(`/proc/${pid}/comm`, 'utf8').trimEnd();
    return { pid, command, container: containerOf(readFileSync(`/proc/${pid}/cgroup`, 'utf8')) };
  } catch {
    return null;
  }
}

/**
 * The container that a process belongs to, by the paths of its cgroups (proc(5), /proc/PID/cgroup). Docker, containerd, CRI-O and Podman
 * name them after the container's id of 64 digits; runc and crun after the id that they were given.
 */
function containerOf(cgroups: string): string | null {
  const paths = cgroups.split('\n').map((line) => line.split(':').slice(2).join(':'));
  for (const path of paths) {
    const id = /(?:^|[-/:])([0-9a-f]{64})(?:\.scope)?(?:\/|$)/.exec(path)?.[1];
    if (id !== undefined) return id;
  }
  // systemd's own units are no containers; neither is the root.
  const names = paths.map((path) => path.split('/').at(-1)!).filter((name) => /^[\w.:-]+$/.test(name));
  const own = names.filter((name) => !/\.(service|slice|scope|mount|socket)$/.test(name) && name !== 'init');
  return own.sort((a, b) => b.length - a.length)[0] ?? null;
}
