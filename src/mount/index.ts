export type { Engine } from './engine.js';
export { holdBackExtraCertificates } from './extra-certificates.js';
export { CLIP_FS_TYPE, isWithin, mountAt, mountOf, parseSource } from './paths.js';
export type { PrefetchState, PrefetchWish } from './prefetch-state.js';
export { type DaemonSettings, LISTEN_FD, SETTINGS_VARIABLE, SOCKET_NAME, type UnmountMode } from './protocol.js';
export { fromWireError, toWireError, type WireError } from './rpc.js';
export type { MountedPlace, MountServer } from './server.js';
export type { ServerProcessContext } from './server-process.js';
export { DEFAULT_IMAGE_OPTIONS, forgetPlace, type ImageOptions, listedPlaces } from './state.js';

/** The engines, loaded by the process that runs them: a client that only wants the types stays small. */
export const loadKeeper = () => import('./keeper.js');
export const loadServer = () => import('./server-process.js');
