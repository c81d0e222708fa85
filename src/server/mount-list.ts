import { closeSync } from 'node:fs';
import { normalize } from 'node:path';
import type { Archive } from '../archive/index.js';
import type { ConnectionId } from '../bytes/index.js';
import { ClipError } from '../bytes/index.js';
import type { ArchiveFile, StorageAccess } from '../check/index.js';
import { readMountInfo } from '../linux/index.js';
import { keepCodeSoon } from '../loader/index.js';
import { type Logger, redact } from '../metrics/index.js';
import type { HelloResult, KeeperMethods, UnmountMode } from '../wire/index.js';
import {
  type ClientContext,
  type ConnectionState,
  DEFAULT_IMAGE_OPTIONS,
  foreignParts,
  type ImageOptions,
  isWithin,
  type PlaceState,
  type PlaneWish,
} from '../wire/index.js';
import { carry, type KeeperLink } from './carry.js';
import type { Engine } from './engine.js';
import { clipMountAmong, enterOurs, type ForeignCaller, refusal } from './foreign-caller.js';
import { describeHolders, findHolders } from './holders.js';
import type { ImageData } from './image-data.js';
import type { ImageMount } from './image-mount.js';
import { KernelMountError } from './kernel-mount.js';
import { descriptorPath, openArchiveFd, openMountPoint } from './open-paths.js';
import { type ChosenPlane, fusePlane } from './plane-choice.js';
import { RegistrySource } from './registry-source.js';
import { Restore } from './restore.js';
import { requireSameOptions } from './same-options.js';

export interface MountArguments {
  readonly archivePath: string;
  readonly mountPoint: string;
  /** Of another mount namespace: both paths are its own. */
  readonly caller?: ForeignCaller | null;
  readonly requestId: string;
  readonly options: Partial<ImageOptions>;
  readonly suid: boolean;
  readonly dev: boolean;
  readonly access: StorageAccess;
  /** SHA-256 of the command that a container will run; undefined: the image's own. */
  readonly command?: string | undefined;
  /** Its words, as in MountRequest. */
  readonly words?: readonly string[] | undefined;
}

/** Its paths as clipd says them. */
interface OpenedArguments extends MountArguments {
  /** By which this process reaches the archive. */
  readonly archiveFile: string;
}

export interface MountedPlace {
  readonly connection: ConnectionState;
  readonly place: PlaceState;
  readonly reference: string;
}

/** How long an unmount waits for the kernel to let go of an unused connection. */
const GONE_WAIT_MS = 1000;

/** The mounts of this server: restores what the keeper holds, then mounts and unmounts as asked. */
export class MountList {
  readonly hello: HelloResult;
  readonly engine: Engine;
  readonly #link: KeeperLink;
  readonly #log: Logger;
  readonly #goneWaiters = new Map<number, () => void>();
  /** Mounts and unmounts happen one after the other: each looks at the list and then changes it. */
  #queue: Promise<unknown> = Promise.resolve();

  constructor(hello: HelloResult, engine: Engine, link: KeeperLink, log: Logger) {
    this.hello = hello;
    this.engine = engine;
    this.#link = link;
    this.#log = log;
  }

  /** Takes over what the keeper holds. */
  restore(): Promise<void> {
    return new Restore(this.engine, this.#link, this.#log).run(this.hello.connections);
  }

  #serialized<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(work);
    this.#queue = result.catch(() => {});
    return result;
  }

  async mount(args: MountArguments): Promise<MountedPlace> {
    const started = performance.now();
    const { archivePath, mountPoint } = args;
    const tell = (attributes: Record<string, string>, error?: string): void =>
      this.engine.telemetry.work({ name: 'mount', started, ended: performance.now(), attributes, error });
    try {
      const mounted = await this.#mountTold(args);
      tell({ archivePath, mountPoint, reference: mounted.reference });
      return mounted;
    } catch (error) {
      tell({ archivePath, mountPoint }, redact(String(error)));
      throw error;
    }
  }

  async #mountTold(args: MountArguments): Promise<MountedPlace> {
    // Before the others are kept waiting: it may take as long as pulling the image.
    const { caller } = args;
    const fd = caller?.openFile(args.archivePath);
    try {
      // Elsewhere the same path may be another file.
      const archiveFile = fd === undefined ? args.archivePath : descriptorPath(fd);
      await this.engine.indexLayers({ ...args, archivePath: archiveFile });
      const archivePath = caller?.say(args.archivePath) ?? args.archivePath;
      const mounted = await this.#serialized(() => this.#mount({ ...args, archivePath, archiveFile }));
      keepCodeSoon();
      return mounted;
    } finally {
      if (fd !== undefined) closeSync(fd);
    }
  }

  async #mount(asked: OpenedArguments): Promise<MountedPlace> {
    if (this.hello.rootless && (asked.suid || asked.dev)) {
      throw new ClipError('PERMISSION', 'only root can mount with --suid or --dev', {
        hint: 'run as root, or leave these options out',
      });
    }
    if (asked.caller) return this.#mountForeign(asked, asked.caller);
    // From here on the directory is known by its descriptor: what becomes of its path leads the mount nowhere else.
    const place = openMountPoint(asked.mountPoint);
    try {
      return await this.#mountAt({ ...asked, mountPoint: place.path }, [place.fd, place.parent]);
    } finally {
      closeSync(place.fd);
      closeSync(place.parent);
    }
  }

  async #mountForeign(asked: OpenedArguments, caller: ForeignCaller): Promise<MountedPlace> {
    if (this.hello.foreign !== true) throw refusal('this clipd, or its keeper, cannot enter another one');
    // Without links the text of a path says where it leads.
    const path = normalize(asked.mountPoint).replace(/(?<=.)\/$/, '');
    if (path === '/')
      throw refusal('nothing is mounted on the root of a mount namespace', { hint: 'give a directory' });
    const fd = caller.openDirectory(path);
    try {
      return await this.#mountAt({ ...asked, mountPoint: caller.say(path) }, [fd, caller.namespace]);
    } finally {
      closeSync(fd);
    }
  }

  /** @param directories the mount point and the one that it lies in, or its namespace, open; the caller closes them */
  async #mountAt(args: OpenedArguments, directories: readonly number[]): Promise<MountedPlace> {
    const connections = await this.#link.keeper.call('list', null);
    for (const connection of connections) {
      for (const place of connection.places) {
        if (place.path === args.mountPoint) {
          if (place.requestId === args.requestId) return this.#mounted(connection, place);
          if (place.restored) return this.#adopt(connection, place, args);
        }
        this.#refuseInside(place.path, args);
      }
    }
    this.#refuseInClipMount(args, directories[0]!);
    this.#refuseHiding(args.mountPoint);
    const plane = args.options.plane ?? this.engine.plane;
    const fd = openArchiveFd(args.archiveFile);
    // A file that is mounted already need not be read again to know what it is.
    const same = [...this.engine.mounts.values()].find((mount) => mount.file.isIn(fd));
    let existing = connections.find((c) => c.id === same?.id && !c.detached);
    let file: ArchiveFile | null = null;
    if (existing === undefined || this.hello.rootless) {
      // The kernel has a tree of its own, and the archive's is needed later, or never.
      const opened = this.engine.openArchive(fd, args.archivePath, { treeOnUse: plane !== 'fuse' });
      file = opened;
      existing = connections.find((c) => !c.detached && this.engine.mounts.get(c.id)?.file.isSame(opened) === true);
    } else {
      closeSync(fd);
    }
    if (existing !== undefined && !this.hello.rootless) {
      file?.close();
      requireSameOptions(existing, args);
      const client = this.#preferAccess(existing.id, args);
      return this.#mounted(existing, await this.#bind(existing.id, args, directories, client));
    }
    const { storage, image: meta } = file!.archive;
    if (args.caller && storage.kind === 'oci' && meta.registry === '') args.caller.requireShared(meta.repository);
    const wanted = { ...args, options: { ...args.options, plane } };
    const image = this.#openImage(wanted, file!);
    return this.#connect(wanted, directories, image, await this.#choosePlane(plane, image));
  }

  /** Takes `file` over. */
  #openImage(args: MountArguments, file: ArchiveFile): ImageData {
    const options = { ...DEFAULT_IMAGE_OPTIONS, ...args.options };
    const image = this.engine.open(file, options, RegistrySource.contextOf(args.access));
    // The link has nothing to do until the first reader comes: what it will want can be on its way before. The mount itself comes first: by
    // then the keeper has been asked for it.
    setImmediate(() => this.engine.fetchAhead(image, this.engine.profilesOf(image, args.command), args.words));
    return image;
  }

  async #choosePlane(wish: PlaneWish, image: ImageData): Promise<ChosenPlane> {
    try {
      const rootless = this.hello.rootless && wish === 'auto';
      if (rootless) return fusePlane('only root can mount EROFS');
      return await this.engine.planes.choose(wish, image.file.archive);
    } catch (error) {
      await image.close();
      throw error;
    }
  }

  #bind(
    id: ConnectionId,
    args: MountArguments,
    directories: readonly number[],
    client?: ClientContext,
  ): Promise<PlaceState> {
    const bind = { id, place: placeRequest(args), fdToken: this.#link.fds.send(directories) };
    return this.#link.keeper.call(
      args.caller ? 'bindForeign' : 'bind',
      client === undefined ? bind : { ...bind, client },
    );
  }

  /** Whoever mounts is the last to know how the registry is reached. @returns what the keeper is to remember */
  #preferAccess(id: ConnectionId, args: MountArguments): ClientContext {
    const { source } = this.engine.mounts.get(id)!;
    source.prefer(args.access);
    return source.context;
  }

  /**
   * After a crash the keeper restores every place. If the client asks for one of them with the same archive and options, it is
   * adopted instead of refused as busy.
   */
  async #adopt(connection: ConnectionState, place: PlaceState, args: OpenedArguments): Promise<MountedPlace> {
    const file = this.engine.openArchive(openArchiveFd(args.archiveFile), args.archivePath);
    file.close();
    const hint = `clipctl umount ${place.path}`;
    const held = this.engine.mounts.get(connection.id)?.file;
    // Whoever names the path again trusts its owner, who may have put an equal file there since.
    const equal = connection.archivePath === args.archivePath && held?.archive.digest === file.archive.digest;
    if (!equal && held?.isSame(file) !== true) {
      const message = `${place.path} was mounted again, with ${connection.archivePath}, after clipd was killed`;
      throw new ClipError('BUSY', message, { hint });
    }
    requireSameOptions(connection, args);
    for (const flag of ['suid', 'dev'] as const) {
      if (place[flag] === args[flag]) continue;
      const message = `${place.path} was mounted again after clipd was killed, with ${flag} ${place[flag]}, not ${args[flag]}`;
      throw new ClipError('CONFLICT', message, { hint });
    }
    const client = this.#preferAccess(connection.id, args);
    return this.#mounted(
      connection,
      await this.#link.keeper.call('adopt', { id: connection.id, place: placeRequest(args), client }),
    );
  }

  /** Takes `image` and the plane's tree over. */
  async #connect(
    args: OpenedArguments,
    directories: readonly number[],
    image: ImageData,
    plane: ChosenPlane,
  ): Promise<MountedPlace> {
    try {
      return await this.#connectAs(args, directories, image, plane);
    } catch (error) {
      if (!(error instanceof KernelMountError)) throw error;
      if (args.options.plane !== 'auto') throw error.asClipError();
      this.#log.warn(
        { archive: args.archivePath, error: error.message },
        'the kernel does not mount it: FUSE serves it',
      );
      const again = this.engine.openArchive(openArchiveFd(args.archiveFile), args.archivePath);
      return this.#connectAs(args, directories, this.#openImage(args, again), fusePlane(error.message));
    } finally {
      if ('tree' in plane) plane.tree.close();
    }
  }

  async #connectAs(
    args: MountArguments,
    directories: readonly number[],
    image: ImageData,
    plane: ChosenPlane,
  ): Promise<MountedPlace> {
    const { file } = image;
    const identity = file.archive.identity;
    const options = { ...DEFAULT_IMAGE_OPTIONS, ...args.options };
    const client = RegistrySource.contextOf(args.access);
    const fdToken = this.#link.fds.send([file.fd]);
    const place = placeRequest(args);
    let reply: Awaited<ReturnType<KeeperMethods['connect']>>;
    try {
      reply = await this.#link.keeper.call('connect', {
        identity,
        archivePath: args.archivePath,
        options,
        client,
        plane: plane.state,
        fdToken,
        place,
      });
    } catch (error) {
      await image.close();
      throw error;
    }
    let { connection } = reply;
    const [fuseFd] = this.#link.fds.take(reply.fdToken) as [number];
    try {
      await this.engine.attach(connection, fuseFd, image, false, this.engine.profilesOf(image, args.command));
      if ('tree' in plane) connection = await carry(this.engine, this.#link, connection, plane.tree);
      const bound = this.hello.rootless ? connection.places[0]! : await this.#bind(connection.id, args, directories);
      this.engine.mounts.get(connection.id)?.prepare();
      // The client looks at its mount now; what inflates for its readers boots meanwhile.
      setImmediate(() => this.engine.warm());
      return this.#mounted(connection, bound);
    } catch (error) {
      await this.#link.keeper.call('drop', { id: connection.id, reason: null });
      await this.engine.detach(connection.id);
      closeSync(fuseFd);
      throw error;
    }
  }

  #mounted(connection: ConnectionState, place: PlaceState): MountedPlace {
    this.engine.mounts.get(connection.id)?.places.add(place.path);
    return { connection, place, reference: this.archiveOf(connection.id)?.image.reference ?? '' };
  }

  archiveOf(id: ConnectionId): Archive | undefined {
    return this.engine.mounts.get(id)?.file.archive;
  }

  #refuseInside(place: string, args: MountArguments): void {
    if (args.mountPoint === place) {
      throw new ClipError('BUSY', `${place} is a clip mount already`, { hint: `clipctl umount ${place}` });
    }
    if (isWithin(args.mountPoint, place)) {
      throw new ClipError('CONFLICT', `mount point ${args.mountPoint} is inside the clip mount ${place}`, {
        hint: 'give a directory outside of it',
      });
    }
    // Reading the archive would wait for the mount, and the mount for the archive.
    if (isWithin(args.archivePath, place)) {
      throw new ClipError('CONFLICT', `archive ${args.archivePath} is inside the clip mount ${place}`, {
        hint: 'copy it out first',
      });
    }
  }

  /** A mount on top of them would hide our socket from clients, and our state from us. */
  #refuseHiding(mountPoint: string): void {
    for (const own of this.engine.directories) {
      if (!isWithin(own, mountPoint)) continue;
      throw new ClipError('CONFLICT', `a mount on ${mountPoint} would hide ${own}, which clipd uses`, {
        hint: 'give another directory, or other ones to clipd: --root DIR --cache-dir DIR',
      });
    }
  }

  /** By the mount that the directory lies on, not by its path, which may have changed since. */
  #refuseInClipMount({ mountPoint, caller }: MountArguments, directory: number): void {
    const mount = caller ? caller.clipMountOf(directory) : clipMountAmong(readMountInfo(), directory);
    if (mount === null) return;
    throw new ClipError('BUSY', `${mountPoint} is a clip mount already, or lies in one (${mount.source})`, {
      hint: `clipctl umount --lazy ${mount.mountPoint}`,
    });
  }

  /** @param foreign the caller's mount namespace, if it is another one than ours */
  unmount(path: string, mode: UnmountMode, foreign: string | null): Promise<{ closed: boolean }> {
    return this.#serialized(() => this.#unmount(path, mode, foreign));
  }

  async #unmount(path: string, mode: UnmountMode, foreign: string | null): Promise<{ closed: boolean }> {
    const connections = await this.list(); // takes note of places that another program unmounted
    const copied = foreignParts(path);
    if (
      copied !== null &&
      copied.namespace === foreign &&
      !connections.some(({ places }) => places.some((place) => place.path === path))
    ) {
      throw refusal(`has mounted nothing at ${copied.path} in this one`, {
        hint: `umount(8) takes a copy of a mount away, ${enterOurs('umount …')} the mount itself`,
      });
    }
    let result: { id: ConnectionId; closed: boolean };
    try {
      result = await this.#link.keeper.call('unbind', { path, mode });
    } catch (error) {
      if (!(error instanceof ClipError) || error.code !== 'BUSY') throw error;
      const holders = findHolders(path, readMountInfo());
      throw new ClipError('BUSY', `${path} is busy: ${describeHolders(holders)}`, {
        hint: 'end them, or use clipctl umount --lazy (they keep their open files) or --force (they get errors)',
      });
    }
    if (result.closed) await this.#waitGone(result.id);
    return { closed: result.closed };
  }

  /** When its last place is unmounted the kernel ends the connection: at once, unless a process still holds a file of it. */
  async #waitGone(id: ConnectionId): Promise<void> {
    if (!this.engine.mounts.has(id)) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, GONE_WAIT_MS);
      this.#goneWaiters.set(id, () => {
        clearTimeout(timer);
        resolve();
      });
    });
    this.#goneWaiters.delete(id);
  }

  async gone(id: ConnectionId): Promise<void> {
    const mount = this.engine.mounts.get(id);
    if (mount === undefined) return;
    await this.engine.detach(id);
    closeSync(mount.fuseFd);
    await this.#link.keeper.call('drop', { id, reason: null });
    this.#goneWaiters.get(id)?.();
  }

  /** The image that is mounted at a place. @throws ClipError NOT_FOUND */
  async mountOf(place: string): Promise<ImageMount> {
    const connections = await this.list();
    const at = (wanted: string | undefined): ConnectionState | undefined =>
      connections.find(({ places }) => places.some(({ path }) => path === wanted));
    // A mount namespace may have a copy of ours.
    const connection = at(place) ?? at(foreignParts(place)?.path);
    const mount = connection === undefined ? undefined : this.engine.mounts.get(connection.id);
    if (mount !== undefined) return mount;
    throw new ClipError('NOT_FOUND', `${place} is not a clip mount of this clipd`, { hint: 'clipctl ps lists them' });
  }

  list(): Promise<readonly ConnectionState[]> {
    return this.#link.keeper.call('list', null);
  }

  standby(): Promise<{ pid: number | null; client?: number | null }> {
    return this.#link.keeper.call('standby', null);
  }

  stop(onlyIfIdle: boolean): Promise<{ stopping: boolean }> {
    return this.#link.keeper.call('stop', { onlyIfIdle });
  }

  upgrade(serverModule: string): Promise<{ version: string }> {
    return this.#link.keeper.call('upgrade', { serverModule });
  }
}

function placeRequest(args: MountArguments): { path: string; suid: boolean; dev: boolean; requestId: string } {
  return { path: args.mountPoint, suid: args.suid, dev: args.dev, requestId: args.requestId };
}
