export type {
  ConnectionStats,
  Health,
  MountInfoReply,
  PrefetchReply,
  ProfileReply,
  Stats,
  UnmountReply,
} from './api.js';
export { ClipdClient, NotRunningError } from './client.js';
export {
  defaultCacheDir,
  defaultRoot,
  resolveDirectory,
  resolvePlace,
} from './locations.js';
export { type MountedArchive, mountArchive, type PrefetchOptions } from './mount-archive.js';
export { type MountOptions, mountStarting, prepareMount } from './mount-client.js';
export type { MountArchiveOptions } from './mount-options.js';
export { IDLE_EXIT_SECONDS, SERVER_MAIN } from './programs.js';
export { startKeeper } from './start.js';

/** The keeper, for `clipctl daemon`: loads what a client does not need. */
export const loadDaemon = () => import('./run-daemon.js');
/** Unmounting without a clipd. */
export const loadOrphans = () => import('./orphans.js');
