/**
 * A container of a mounted image: its writable layer, its OCI bundle, its network, and the runtime that runs it. Runs in the process that asks
 * for it (clipctl, or a program that uses the library); clipd knows only the image's place.
 */
export { type BundleOptions, createBundle } from './bundle.js';
export type { CniNetwork, CniPlugin } from './cni.js';
export {
  type ContainerPaths,
  type ContainerState,
  checkContainerId,
  containerPaths,
  listContainers,
  loadContainer,
  newContainerId,
} from './container-state.js';
export { DEFAULT_PATH } from './defaults.js';
export {
  type ContainerOptions,
  OverlayMounter,
  type RunContainerOptions,
  runContainer,
} from './library.js';
export { type ContainerInfo, containersOf } from './list-containers.js';
export {
  type MountContainerOptions,
  type MountedContainer,
  makeReadOnly,
  mountContainer,
  type OverlayOptions,
  type UnmountContainerOptions,
  unmountContainer,
} from './mount-container.js';
export type { Net, NetworkOptions, NetworkState } from './network.js';
export type { OverlayKind } from './overlay.js';
export type { PublishedPort } from './ports.js';
export { describeProcesses } from './processes.js';
export { findProgram } from './programs.js';
export {
  architectureWarning,
  checkBeforeImage,
  commandOf,
  type RunOptions,
  type RunResult,
  runInContainer,
  startContainer,
} from './run-container.js';
export { findRuntime, StartError, type Stdio } from './runtime.js';
export { SignalRelay } from './signals.js';
export type { ProcessOptions, Volume } from './spec.js';
