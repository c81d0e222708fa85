import { existsSync } from 'node:fs';
import { readMountInfo } from '../linux/index.js';
import { mountAt } from '../wire/index.js';
import { listContainers, loadContainer } from './container-state.js';
import { describePort } from './ports.js';
import { type ContainerProcess, processesOn } from './processes.js';

export interface ContainerInfo {
  readonly id: string;
  /** The image. */
  readonly reference: string;
  readonly archivePath: string;
  readonly bundle: string;
  readonly rootfs: string;
  /** Where clipd shows the image; null when it was unpacked. */
  readonly place: string | null;
  /** Published: "127.0.0.1:8080/tcp -> 80". */
  readonly ports: readonly string[];
  /** ISO 8601. */
  readonly since: string;
  /** "incomplete": what a crash left. */
  readonly state: 'mounted' | 'incomplete';
  /** The processes that run in it. */
  readonly holders: readonly ContainerProcess[];
}

/** All containers of a root, from what is on disk and what is mounted: no clipd is needed. */
export function containersOf(root: string, cacheDir: string): ContainerInfo[] {
  const mounts = readMountInfo();
  const found: ContainerInfo[] = [];
  for (const id of listContainers(root)) {
    const state = loadContainer(root, cacheDir, id);
    if (state === null) continue;
    const mount = mountAt(mounts, state.rootfs);
    found.push({
      id,
      reference: state.reference,
      archivePath: state.archivePath,
      bundle: `${root}/${id}`,
      rootfs: state.rootfs,
      place: state.plane === 'mount' ? state.image : null,
      ports: (state.network?.ports ?? []).map((port) => `${describePort(port)} -> ${port.containerPort}`),
      since: new Date(state.createdAt).toISOString(),
      state: mount !== undefined && existsSync(`${root}/${id}/config.json`) ? 'mounted' : 'incomplete',
      holders: mount === undefined ? [] : processesOn(mount.device),
    });
  }
  return found;
}
