import { readFileSync, readlinkSync, statSync } from 'node:fs';

/** What a process was started with. */
export interface Caller {
  /** The script that its shell runs, and the arguments behind it. */
  readonly script: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly directory: string;
  readonly umask: number;
  /** Whether it has not ended. */
  lives(): boolean;
}

/** What decides which files a path names, who may open them, and which network a connection goes to. */
const NAMESPACES = ['mnt', 'user', 'net', 'pid'];

/** Names and values of /proc/PID/status. */
type Status = ReadonlyMap<string, string>;

function statusOf(pid: number | 'self'): Status {
  const lines = readFileSync(`/proc/${pid}/status`, 'latin1').split('\n');
  return new Map(lines.map((line) => line.split(/:\s*/, 2) as [string, string]));
}

/** proc_pid_stat(5): the state, and when the process started. */
function life(pid: number): { readonly state: string; readonly started: string } {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return { state: fields[0]!, started: fields[19]! };
}

function strings(file: string): string[] {
  return readFileSync(file, 'utf8').split('\0').slice(0, -1);
}

const identity = (path: string): string => {
  const { dev, ino } = statSync(path, { bigint: true });
  return `${dev}:${ino}`;
};

/** Whether `pid` sees the same files and the same network under the same identity, and has every right that this process has. */
function isAlike(pid: number, theirs: Status): boolean {
  const own = statusOf('self');
  for (const name of ['Uid', 'Gid']) if (own.get(name) !== theirs.get(name)) return false;
  // Root opens files whatever its groups are.
  if (process.geteuid?.() !== 0 && own.get('Groups')?.trim() !== theirs.get('Groups')?.trim()) return false;
  const rights = (status: Status): bigint => BigInt(`0x${status.get('CapEff') ?? '0'}`);
  if ((rights(own) & ~rights(theirs)) !== 0n) return false;
  for (const name of NAMESPACES) {
    if (readlinkSync(`/proc/self/ns/${name}`) !== readlinkSync(`/proc/${pid}/ns/${name}`)) return false;
  }
  return identity(`/proc/${pid}/root/.`) === identity('/');
}

/** The shell with this process id, if this process can stand in for it; null otherwise, or when it has ended. */
export function callerOf(pid: number): Caller | null {
  try {
    const { started } = life(pid);
    const status = statusOf(pid);
    if (!isAlike(pid, status)) return null;
    const [, script, ...args] = strings(`/proc/${pid}/cmdline`);
    const env = Object.fromEntries(
      strings(`/proc/${pid}/environ`).map((entry) => {
        const at = entry.indexOf('=');
        return [entry.slice(0, at), entry.slice(at + 1)] as const;
      }),
    );
    const directory = readlinkSync(`/proc/${pid}/cwd`);
    // Removed, or covered by a mount since.
    if (script === undefined || identity(directory) !== identity(`/proc/${pid}/cwd/.`)) return null;
    const umask = Number.parseInt(status.get('Umask')!, 8);
    const lives = (): boolean => {
      try {
        const now = life(pid);
        return now.started === started && now.state !== 'Z' && now.state !== 'X';
      } catch {
        return false;
      }
    };
    return { script, args, env, directory, umask, lives };
  } catch {
    return null;
  }
}
