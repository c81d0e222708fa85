import { existsSync, readdirSync, readFileSync, rmdirSync } from 'node:fs';

const ROOT = '/sys/fs/cgroup';

/** In each hierarchy. */
export function cgroupsPathOf(id: string): string {
  return `/clip/${id}`;
}

/** How long a killed process may take to leave its group. */
const LEAVES_MS = 1000;

/**
 * Removes the control groups of a container that no runtime knows, with what still runs in them: a runtime that is killed while it
 * starts a container has made them already, and started its own second process there.
 * @param path as in the container's config.json (cgroupsPath)
 */
export async function removeCgroups(path: string): Promise<void> {
  // Version 2 is one hierarchy at the root, version 1 has one for each controller below.
  const groups = [ROOT, ...hierarchies()]
    .map((hierarchy) => `${hierarchy}${path}`)
    .filter((group) => existsSync(group));
  const end = performance.now() + LEAVES_MS;
  for (const group of groups) {
    while (!removed(group) && performance.now() < end) await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

function hierarchies(): string[] {
  try {
    const entries = readdirSync(ROOT, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map(({ name }) => `${ROOT}/${name}`);
  } catch {
    return []; // a machine without
  }
}

/** @returns false while a process lives in it */
function removed(group: string): boolean {
  try {
    for (const pid of readFileSync(`${group}/cgroup.procs`, 'latin1').split('\n')) {
      if (pid !== '') process.kill(Number(pid), 'SIGKILL');
    }
  } catch {
    // it has ended meanwhile
  }
  try {
    rmdirSync(group);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'EBUSY';
  }
  return true;
}
