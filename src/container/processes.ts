import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { mountNamespace, parseMountInfo } from '../linux/index.js';

export interface ContainerProcess {
  readonly pid: number;
  readonly command: string;
}

/** More names than this do not help the reader. */
const MAX_PROCESSES = 20;

function tryRead<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined; // the process has gone, or belongs to another user
  }
}

/**
 * The processes whose root is the file system mounted at `rootfs`: those of a container, whichever runtime started it. A container
 * has a mount namespace of its own, with a copy of the mount, so unmounting ours would succeed under its feet.
 * @param device "major:minor" of that file system, from mountinfo
 */
export function processesOn(device: string): ContainerProcess[] {
  const own = mountNamespace();
  const showsIt = new Map<string, boolean>();
  const found: ContainerProcess[] = [];
  for (const pid of readdirSync('/proc')) {
    if (!/^[0-9]+$/.test(pid)) continue;
    const namespace = tryRead(() => readlinkSync(`/proc/${pid}/ns/mnt`));
    if (namespace === undefined || namespace === own) continue;
    let shows = showsIt.get(namespace);
    if (shows === undefined) {
      const mounts = parseMountInfo(tryRead(() => readFileSync(`/proc/${pid}/mountinfo`, 'latin1')) ?? '');
      // At "/": a service with a mount namespace of its own also has copies of the host's mounts.
      shows = mounts.some((mount) => mount.mountPoint === '/' && mount.device === device);
      showsIt.set(namespace, shows);
    }
    if (!shows) continue;
    const command = tryRead(() => readFileSync(`/proc/${pid}/comm`, 'utf8').trim()) ?? '?';
    found.push({ pid: Number(pid), command });
    if (found.length === MAX_PROCESSES) break;
  }
  return found;
}

/** "sh (pid 12), nginx (pid 13)" */
export function describeProcesses(processes: readonly ContainerProcess[]): string {
  return processes.map(({ pid, command }) => `${command} (pid ${pid})`).join(', ');
}
