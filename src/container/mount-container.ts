import { existsSync, mkdirSync, rmdirSync, rmSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { ImageMeta } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import { readArchiveImage } from '../check/index.js';
import { ClipdClient, loadOrphans, type MountOptions, mountStarting, NotRunningError } from '../client/index.js';
import { readMountInfo, unmount } from '../linux/index.js';
import type { KeptLayers } from '../oci/index.js';
import { stablePath } from '../paths/index.js';
import type { DaemonSettings, MountInfoReply, MountRequest } from '../wire/index.js';
import { makeDirectory, mountAt } from '../wire/index.js';
import { makeMountPoints } from './bundle.js';
import { cgroupsPathOf, removeCgroups } from './cgroups.js';
import {
  type ContainerPaths,
  type ContainerState,
  checkContainerId,
  claimContainer,
  containerPaths,
  listContainers,
  loadContainer,
  makeWritableParent,
  saveContainer,
  writableDirectory,
} from './container-state.js';
import { chooseNetwork, connect, disconnect, type NetworkOptions, type NetworkState, planNetwork } from './network.js';
import {
  mountFuseOverlay,
  mountKernelOverlay,
  mountTmpfs,
  type OverlayKind,
  remountReadOnly,
  unmountUser,
} from './overlay.js';
import { ownDirectory } from './own-directory.js';
import { describeProcesses, processesOn } from './processes.js';
import { runtimeDelete, runtimeStatus } from './runtime.js';

export interface OverlayOptions {
  /** "kernel": overlayfs by mount(2). "fuse": the program fuse-overlayfs. "auto": what this user and kernel can. Default auto. */
  readonly overlay?: OverlayKind | 'auto';
  /** Where the writable layer is: DIR/upper, which stays. Default: a directory below the cache, which goes with the container. */
  readonly upper?: string;
  /** The writable layer in memory, of at most so many bytes. */
  readonly tmpfsUpper?: number;
  readonly nosuid?: boolean;
  /** What shows the image: a mount of clipd's, which fetches what is read; or a directory with all of it. Default "mount". */
  readonly plane?: 'mount' | 'unpack';
  /** Directories in which the image's mount and the merged tree get a directory by the container's id. Default: the bundle. */
  readonly mountBase?: string;
  readonly rootfsBase?: string;
}

export interface MountContainerOptions extends OverlayOptions, NetworkOptions {
  readonly id: string;
  readonly archivePath: string;
  readonly settings: DaemonSettings;
  /** What the caller asked of clipd, which conflicts with one that runs otherwise. */
  readonly daemon?: NonNullable<MountRequest['daemon']>;
  readonly mount?: Pick<MountOptions, 'options' | 'credentials' | 'command' | 'words'>;
  /** The runtime that will run it, if it is known. */
  readonly runtime?: string;
}

export interface MountExtras {
  /** Layers that were read to index the image, for `plane: 'unpack'`. */
  readonly kept?: KeptLayers | null;
  readonly signal?: AbortSignal | undefined;
}

export interface MountedContainer {
  readonly state: ContainerState;
  readonly paths: ContainerPaths;
  readonly image: ImageMeta;
  /** The image's mount; null when it was unpacked. */
  readonly mounted: MountInfoReply | null;
  /** A clipd was started for it. */
  readonly started: boolean;
}

const isRoot = (): boolean => process.getuid?.() === 0;

/** Two containers that write to one directory would corrupt it. Those that the user does not name are one container's each. */
function refuseSharedUpper(root: string, cacheDir: string, own: ContainerState): void {
  if (!own.keepWritable) return;
  for (const id of listContainers(root)) {
    if (id === own.id) continue;
    const other = loadContainer(root, cacheDir, id);
    if (other?.writable !== own.writable) continue;
    throw new ClipError('BUSY', `the writable directory ${own.writable} is in use by the container ${id}`, {
      hint: `give another --upper, or: clipctl umount --cid ${id}`,
    });
  }
}

/** A directory that the user names, and that is there. */
function givenDirectory(path: string, flag: string): string {
  try {
    return stablePath(path);
  } catch (cause) {
    if (cause instanceof ClipError) throw cause;
    const { code } = cause as NodeJS.ErrnoException;
    const missing = code === 'ENOENT' || code === 'ENOTDIR';
    throw new ClipError('NOT_FOUND', `${flag} ${path}: ${missing ? 'there is no such directory' : code}`, {
      cause,
      hint: missing ? `mkdir -p ${path}` : 'give another directory',
    });
  }
}

/** @throws ClipError USAGE, NOT_FOUND */
export function checkOverlayOptions({ upper, tmpfsUpper, mountBase, rootfsBase }: OverlayOptions): void {
  if (upper !== undefined && tmpfsUpper !== undefined) {
    throw new ClipError('USAGE', '--upper and --tmpfs-upper exclude each other', { hint: 'give one of them' });
  }
  if (upper !== undefined) givenDirectory(upper, '--upper');
  if (mountBase !== undefined) givenDirectory(mountBase, '--mount-base');
  if (rootfsBase !== undefined) givenDirectory(rootfsBase, '--rootfs-base');
}

function newState(options: MountContainerOptions, paths: ContainerPaths): ContainerState {
  const { id, settings, upper, tmpfsUpper } = options;
  const based = (base: string | undefined, name: string, flag: string): string =>
    base === undefined ? join(paths.bundle, name) : join(givenDirectory(base, flag), id);
  const onDisk = writableDirectory(settings.root, settings.cacheDir, id);
  const own = tmpfsUpper === undefined ? onDisk : paths.tmpfs;
  return {
    format: 1,
    id,
    reference: '',
    archivePath: options.archivePath,
    plane: options.plane ?? 'mount',
    rootfs: based(options.rootfsBase, 'rootfs', '--rootfs-base'),
    image: options.plane === 'unpack' ? join(onDisk, 'image') : based(options.mountBase, 'image', '--mount-base'),
    overlay: null,
    writable: upper === undefined ? own : givenDirectory(upper, '--upper'),
    keepWritable: upper !== undefined,
    runtime: options.runtime ?? null,
    network: null,
    createdAt: Date.now(),
  };
}

/** The ports of other containers, which no socket of this machine shows. */
function publishedBesides(root: string, cacheDir: string, own: string): { id: string; ports: NetworkState['ports'] }[] {
  return listContainers(root)
    .filter((id) => id !== own)
    .map((id) => ({ id, ports: loadContainer(root, cacheDir, id)?.network?.ports ?? [] }));
}

/** Unpacking makes the directory itself. */
function makePlaceForImage({ image }: ContainerState): void {
  makeWritableParent(join(image, '..'));
  ownDirectory(join(image, '..'));
}

function makeDirectories(state: ContainerState, options: MountContainerOptions, paths: ContainerPaths): void {
  if (options.tmpfsUpper !== undefined) {
    mkdirSync(paths.tmpfs, { mode: 0o700 });
    mountTmpfs(paths.tmpfs, options.tmpfsUpper);
  } else if (!state.keepWritable) {
    makeWritableParent(state.writable);
    // What lies there is of a container of this id that a reboot ended: /run forgot it, the disk did not.
    rmSync(state.writable, { recursive: true, force: true });
    mkdirSync(state.writable, { mode: 0o700 });
  }
  ownDirectory(state.rootfs);
  if (state.plane === 'mount') ownDirectory(state.image);
  else makePlaceForImage(state);
  // The merged root is the upper directory's: every user in the container may enter it.
  ownDirectory(join(state.writable, 'upper'), 0o755);
  ownDirectory(join(state.writable, 'work'));
}

interface Shown {
  readonly image: ImageMeta;
  readonly archivePath: string;
  readonly mounted: MountInfoReply | null;
  readonly started: boolean;
}

async function mountImage(state: ContainerState, options: MountContainerOptions): Promise<Shown> {
  const { settings, archivePath } = options;
  const mounting = mountStarting(
    new ClipdClient(settings.root),
    settings,
    { ...options.mount, archivePath, mountPoint: state.image },
    options.daemon ?? {},
  );
  let image: ImageMeta;
  try {
    image = readArchiveImage(archivePath);
  } finally {
    await mounting.catch(() => {}); // it throws below, unless the archive cannot be read
  }
  const { mounted, started } = await mounting;
  return { image, archivePath: mounted.archivePath, mounted, started };
}

async function unpackImage(
  state: ContainerState,
  { archivePath, mount }: MountContainerOptions,
  { kept = null, signal }: MountExtras,
): Promise<Shown> {
  const [{ ArchiveFile }, { unpackArchive }, { sourceForArchive }] = await Promise.all([
    import('../check/index.js'),
    import('../unpack/index.js'),
    import('../oci/index.js'),
  ]);
  const file = ArchiveFile.open(archivePath);
  const { archive } = file;
  const { credentials, options } = mount ?? {};
  const registry = sourceForArchive(archive.image, {
    // Keys of S3 are for archives whose data is there, which is not unpacked this way.
    ...(credentials === undefined || (credentials !== null && 'accessKeyId' in credentials) ? {} : { credentials }),
    ...(options?.plainHttp === undefined ? {} : { plainHttp: options.plainHttp }),
  });
  const source = kept?.wrap(registry) ?? registry;
  try {
    await unpackArchive({
      archive,
      source,
      directory: state.image,
      ...(signal === undefined ? {} : { signal }),
    });
    return { image: archive.image, archivePath, mounted: null, started: false };
  } finally {
    await source.close();
    kept?.close();
    file.close();
  }
}

/** Lays a writable layer over an image. @returns what did it */
function mountOverlay(state: ContainerState, options: MountContainerOptions): OverlayKind {
  const layers = {
    lower: state.image,
    upper: join(state.writable, 'upper'),
    work: join(state.writable, 'work'),
    target: state.rootfs,
    nosuid: options.nosuid ?? false,
    // Taken down, it is removed; after a crash of the machine the next container of this id begins anew.
    volatile: !state.keepWritable,
  };
  const wanted = options.overlay ?? 'auto';
  const fuse = (): OverlayKind => {
    // Without root only this user's id exists in the container: all files are shown as its own.
    mountFuseOverlay(layers, isRoot() ? null : { uid: process.getuid!(), gid: process.getgid!() });
    return 'fuse';
  };
  if (wanted === 'fuse' || (wanted === 'auto' && !isRoot())) return fuse();
  try {
    mountKernelOverlay(layers);
    return 'kernel';
  } catch (error) {
    const missing = error instanceof ClipError && (error.cause as NodeJS.ErrnoException | undefined)?.code === 'ENODEV';
    if (wanted === 'kernel' || !missing) throw error;
    return fuse();
  }
}

/**
 * Mounts an image with a writable layer of the container's own over it. Whatever fails, nothing is left behind.
 * @throws ClipError BUSY when the id is in use; otherwise naming the archive, the directory or what is missing
 */
export async function mountContainer(
  options: MountContainerOptions,
  extras: MountExtras = {},
): Promise<MountedContainer> {
  const { id, settings } = options;
  checkContainerId(id);
  checkOverlayOptions(options);
  makeDirectory(settings.root);
  makeDirectory(settings.cacheDir);
  const paths = containerPaths(settings.root, id);
  const network = chooseNetwork(options);
  let state = newState(options, paths);
  if (network !== null) state = { ...state, network: planNetwork(network, paths.bundle) };
  claimContainer(settings.root, state);
  try {
    refuseSharedUpper(settings.root, settings.cacheDir, state);
    makeDirectories(state, options, paths);
    const shown = await (state.plane === 'unpack' ? unpackImage(state, options, extras) : mountImage(state, options));
    state = { ...state, reference: shown.image.reference, archivePath: shown.archivePath };
    state = { ...state, overlay: mountOverlay(state, options) };
    if (state.network !== null) {
      const others = publishedBesides(settings.root, settings.cacheDir, id);
      state = { ...state, network: await connect(id, paths.bundle, state.network, others) };
    }
    saveContainer(settings.root, state);
    return { state, paths, image: shown.image, mounted: shown.mounted, started: shown.started };
  } catch (error) {
    await unmountContainer(settings.root, settings.cacheDir, id, { force: true }).catch(() => {});
    throw error;
  }
}

/** Makes a container's merged tree read-only, for who reads it from outside or runs it with another bundle. */
export function makeReadOnly({ rootfs }: Pick<ContainerState, 'rootfs'>, nosuid = false): void {
  makeMountPoints(rootfs);
  remountReadOnly(rootfs, nosuid);
}

export interface UnmountContainerOptions {
  /** Also when it runs: its processes are killed. */
  readonly force?: boolean;
  /** The runtime has ended and forgotten it: there is no process to ask. */
  readonly ended?: boolean;
}

/** Ends what the runtime has of a container. @throws ClipError BUSY when it runs */
async function endRuntime(state: ContainerState, bundle: string, force: boolean): Promise<void> {
  const { runtime, id } = state;
  if (runtime === null || !existsSync(runtime)) return;
  const status = runtimeStatus(runtime, id, bundle);
  if (status === null || status === 'foreign') {
    // A runtime that was killed early leaves an empty directory of its own, and refuses the id from then on.
    if (status === null) runtimeDelete(runtime, id, true);
    if (force) await removeCgroups(cgroupsPathOf(id));
    return;
  }
  if (status !== 'stopped' && !force) {
    throw new ClipError('BUSY', `the container ${id} is ${status}`, {
      hint: `${runtime} kill ${id} TERM ends it; clipctl umount --force --cid ${id} kills it`,
    });
  }
  const refused = runtimeDelete(runtime, id, force);
  // The runtime's process that ran it in the foreground may have cleaned up at the same moment.
  if (refused === null) return;
  const left = runtimeStatus(runtime, id, bundle);
  if (left !== null && left !== 'foreign')
    throw new ClipError('SYSTEM', `${runtime} cannot delete the container ${id}: ${refused}`);
}

function isMounted(path: string): boolean {
  return mountAt(readMountInfo(), path) !== undefined;
}

/** @param ended nothing runs in it any more: looking through all processes took 100 ms of a short run */
function unmountRootfs(state: ContainerState, force: boolean, ended: boolean): void {
  for (
    let top = mountAt(readMountInfo(), state.rootfs);
    top !== undefined;
    top = mountAt(readMountInfo(), state.rootfs)
  ) {
    const processes = force || ended ? [] : processesOn(top.device);
    if (processes.length > 0) {
      throw new ClipError('BUSY', `the container ${state.id} runs: ${describeProcesses(processes)}`, {
        hint: `end them, or: clipctl umount --force --cid ${state.id} (they lose their files)`,
      });
    }
    try {
      if (top.type.startsWith('fuse') && !isRoot()) unmountUser(state.rootfs, force);
      else unmount(state.rootfs, force ? 'lazy' : undefined);
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== 'EBUSY') throw cause;
      throw new ClipError('BUSY', `${state.rootfs} is busy`, {
        cause,
        hint: `fuser -vm ${state.rootfs} names the processes; --force takes it down all the same`,
      });
    }
  }
}

/** How long fuse-overlayfs may take to end, after its mount has, with files of the image open. */
const FUSE_OVERLAY_ENDS_MS = 3000;

async function unmountImage(root: string, state: ContainerState, force: boolean): Promise<void> {
  const client = new ClipdClient(root);
  const end = performance.now() + (state.overlay === 'fuse' ? FUSE_OVERLAY_ENDS_MS : 0);
  try {
    for (;;) {
      try {
        await client.unmount({ mountPoint: state.image, mode: force ? 'lazy' : 'normal' });
        return;
      } catch (error) {
        if (!(error instanceof ClipError) || error.code !== 'BUSY' || performance.now() >= end) throw error;
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    }
  } catch (error) {
    const unknown = error instanceof NotRunningError || (error instanceof ClipError && error.code === 'NOT_FOUND');
    if (!unknown) throw error;
    // A clip mount without its clipd is dead: it can only be removed.
    if (isMounted(state.image)) await (await loadOrphans()).unmountOrphan(state.image);
  }
}

function removeDirectory(path: string): void {
  try {
    rmdirSync(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT') throw error;
  }
}

/** Gives the network and the ports of a container back that has ended and stays. */
export async function releaseNetwork(root: string, cacheDir: string, id: string): Promise<void> {
  const state = loadContainer(root, cacheDir, id);
  if (state === null || state.network === null) return;
  await disconnect(id, containerPaths(root, id).bundle, state.network);
  saveContainer(root, { ...state, network: null });
}

/**
 * Takes a container down: its processes if forced, the merged tree, its place of the image (and the image's mount when that was
 * the last), its writable layer unless it is the user's own. Works on what a crash left, and on what was never finished.
 * @returns false when there is no container of this id
 * @throws ClipError BUSY when it runs and is not forced
 */
export async function unmountContainer(
  root: string,
  cacheDir: string,
  id: string,
  options: UnmountContainerOptions = {},
): Promise<boolean> {
  const state = loadContainer(root, cacheDir, id);
  if (state === null) return false;
  const { force = false, ended = false } = options;
  const paths = containerPaths(root, id);
  if (!ended) await endRuntime(state, paths.bundle, force);
  // A plugin that fails, or has been uninstalled, must not keep the rest up.
  const disconnected = state.network === null ? null : disconnect(id, paths.bundle, state.network);
  const notDisconnected = await disconnected?.then(
    () => null,
    (error: unknown) => error,
  );
  unmountRootfs(state, force, ended);
  if (isMounted(paths.tmpfs)) unmount(paths.tmpfs, force ? 'lazy' : undefined);
  // Files are removed while clipd takes the image's place down.
  const removed = rm(state.keepWritable ? join(state.writable, 'work') : state.writable, {
    recursive: true,
    force: true,
  });
  removed.catch(() => {}); // awaited below
  if (state.plane === 'mount') {
    await unmountImage(root, state, force);
    removeDirectory(state.image);
  } else {
    await removed;
    await rm(join(state.image, '..'), { recursive: true, force: true });
  }
  removeDirectory(state.rootfs);
  await removed;
  rmSync(paths.bundle, { recursive: true, force: true });
  if (notDisconnected) throw notDisconnected;
  return true;
}
