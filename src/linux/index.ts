/**
 * System calls that Node lacks (mount, ioctl, epoll, descriptors over sockets, holes, xattrs), with their flags and errno. The only
 * folder that imports koffi. A call here does what its manual page says; decisions belong to the caller. Imports nothing. Runs in every
 * process and thread.
 */

export { lastCpuOf, ThreadPins, threadId } from './affinity.js';
export {
  closeFd,
  createEventFd,
  dropCachedPages,
  punchHole,
  readsDirectly,
  replaceDescriptor,
  setNonBlocking,
  signalEventFd,
  tryLock,
  writebackError,
} from './descriptors.js';
export { Epoll } from './epoll.js';
export { check, Errno, errnoName, SystemCallError } from './errno.js';
export { makeFifo } from './fifo.js';
export { FileStatus } from './file-status.js';
export { setFileTime, setOpenFileTime } from './file-times.js';
export * as flags from './flags.js';
export { type FuseMountOptions, mountFuse, openFuseDevice } from './fuse-device.js';
export {
  attachMount,
  bindMountAt,
  bindMountIn,
  detachMount,
  type ErofsMountOptions,
  type MountOptions,
  mountErofs,
  mountFileSystem,
  openErofs,
  setReadAhead,
  unmount,
  unmountIn,
} from './mount.js';
export {
  inMountNamespace,
  mountNamespaceId,
  mountNamespaceName,
  mountPointIn,
  openMountNamespace,
  openWithoutLinks,
  uniqueMountId,
} from './mount-namespace.js';
export { type MountInfo, mountIdOf, mountNamespace, parseMountInfo, readMountInfo } from './mountinfo.js';
export { makeNetworkNamespace } from './network-namespace.js';
export { notifySystemd } from './notify.js';
export { type FileUser, openBeneath, withFilePermissionsOf } from './open-beneath.js';
export { openInRoot } from './open-in-root.js';
export {
  dieWithParent,
  type ProcessEnd,
  processLives,
  reapChild,
  releaseHeap,
  replaceProcess,
  threadLives,
} from './process.js';
export {
  listenUnix,
  type PeerCredentials,
  peerCredentials,
  peerProcess,
  receiveDescriptors,
  sendDescriptors,
  socketPair,
  unixSocket,
} from './sockets.js';
/** Raw calls: results or −errno, no exceptions. */
export * as sys from './syscalls.js';
export { getXattr, listXattr, setXattr } from './xattr.js';
