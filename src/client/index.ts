/**
 * clipd seen from its users: starting it, talking to it, finding out what only the client's process can see (credentials, its mount
 * namespace), and `mountArchive`. Never imports keeper/ or server/, which it starts as programs. Runs in `clipctl` and in programs that
 * use the library.
 */

export { ClipdClient, NotRunningError } from './clipd-client.js';
export { type FetchArchiveOptions, fetchArchive } from './fetch-archive.js';
export { keeperPidOf } from './keeper-pid.js';
export { launchKeeper } from './keeper-process.js';
export { getMetrics } from './metrics.js';
export { type Mount, type MountCallOptions, type MountEvents, mount } from './mount.js';
export {
  type ClosedMount,
  type EngineStats,
  type MountedArchive,
  mountArchive,
  type PrefetchOptions,
} from './mount-archive.js';
export { type MountOptions, mountStarting, prepareMount } from './mount-client.js';
export type { MountArchiveOptions } from './mount-options.js';
export { type DroppedReads, type ReadEvent, type ReadTrace, traceReads } from './read-trace.js';
export { startKeeper } from './start-clipd.js';

/** Unmounting without a clipd: loaded only when it is needed. */
export const loadOrphans = () => import('./orphans.js');
