import { closeSync, constants, openSync } from 'node:fs';
import { basename } from 'node:path';
import type { ConnectionId } from '../bytes/index.js';
import { ClipError } from '../bytes/index.js';
import { attachMount, closeFd, flags, mountIdOf, readMountInfo } from '../linux/index.js';
import { logLine } from '../metrics/index.js';
import type { OwnDirectory } from '../paths/index.js';
import type { ConnectRequest, PlaceRequest, UnmountMode } from '../wire/index.js';
import {
  type ClientContext,
  type ConnectionState,
  imageAnchorName,
  mountSource,
  ownClipMount,
  type PlaceState,
  planeOf,
  saveState,
} from '../wire/index.js';
import { ForeignMount } from './foreign-mount.js';
import { HeldMount } from './held-mount.js';
import {
  abortAnchor,
  bindPlace,
  connectFuse,
  isBusy,
  removeAnchor,
  rootless,
  unmountHeld,
  unmountQuietly,
} from './mounter.js';

/** The directory of anchors, in the root. */
export const ANCHORS = 'mnt';

const DIRECTORY = flags.O_PATH | constants.O_DIRECTORY;

/** A place's directory, and the directory that it lies in, open with O_PATH. */
export interface PlaceDescriptors {
  readonly fd: number;
  readonly parent: number;
}

/** A connection as the keeper has it: what the list says, and what only a process can hold. */
export interface HeldConnection {
  state: ConnectionState;
  readonly fuseFd: number;
  /** Kept open: the file may be replaced or removed while it is mounted. */
  readonly archiveFd: number;
  /** The mount that carries the connection. Without root, its only place. */
  readonly anchor: HeldMount;
  /** The kernel's own mount, once a server has made it. Places then show it, and not the anchor. */
  image: HeldMount | null;
  /** By the path of the place. */
  readonly places: Map<string, HeldMount | ForeignMount>;
  client: ClientContext;
  /** A server has been given this connection: the next one must ask the kernel to resend. */
  resumed: boolean;
}

function placeOf(request: PlaceRequest): PlaceState {
  const { path, suid, dev, requestId } = request;
  return { path, suid, dev, requestId, mountedAt: Date.now() };
}

/** The keeper's table of connections and their places: mounts, unmounts, and keeps the list on disk in step. */
export class Connections {
  readonly #root: OwnDirectory;
  readonly #byId = new Map<number, HeldConnection>();
  #nextId = 1;

  constructor(root: OwnDirectory) {
    this.#root = root;
  }

  get states(): ConnectionState[] {
    return [...this.#byId.values()].map((connection) => connection.state);
  }

  get size(): number {
    return this.#byId.size;
  }

  get(id: ConnectionId): HeldConnection {
    const connection = this.#byId.get(id);
    if (connection === undefined) throw new ClipError('NOT_FOUND', `no connection ${id}`);
    return connection;
  }

  /** Writes the list. */
  save(): void {
    saveState(this.#root, this.states);
  }

  /** An anchor, reached through the root's descriptor. */
  #anchorOf(id: ConnectionId): string {
    return this.#root.at(`${ANCHORS}/${id}`);
  }

  /** Likewise, of the kernel's own mount. */
  #imageAnchorOf(id: ConnectionId): string {
    return this.#root.at(`${ANCHORS}/${imageAnchorName(id)}`);
  }

  async connect(request: Omit<ConnectRequest, 'fdToken'>, archiveFd: number): Promise<HeldConnection> {
    const id = this.#nextId++;
    let fuseFd = -1;
    let anchor: HeldMount;
    try {
      if (!rootless) this.#root.make(`${ANCHORS}/${id}`);
      const target = rootless ? request.place.path : this.#anchorOf(id);
      fuseFd = await connectFuse(target, mountSource(this.#root.path, id));
      anchor = rootless ? this.#findMount(id) : this.#mountOfAnchor(String(id));
    } catch (error) {
      closeFd(archiveFd);
      if (fuseFd >= 0) closeFd(fuseFd); // which ends the connection
      if (!rootless) removeAnchor(this.#anchorOf(id));
      throw error;
    }
    const { identity, archivePath, options, client, plane } = request;
    const places = rootless ? [placeOf(request.place)] : [];
    const path = rootless ? request.place.path : `${this.#root.path}/${ANCHORS}/${id}`;
    const connection: HeldConnection = {
      state: { id, identity, archivePath, anchor: path, places, plane, options, detached: false },
      fuseFd,
      archiveFd,
      anchor,
      image: null,
      places: new Map(rootless ? [[path, anchor]] : []),
      client,
      resumed: false,
    };
    this.#byId.set(id, connection);
    // A connection without a place is no mount: the list gets both at once (`#bound`).
    if (rootless) {
      this.save();
      logMounted(connection, path);
    }
    return connection;
  }

  #mountOfAnchor(name: string): HeldMount {
    // Of the new mount nothing but its root is asked, which the kernel knows: no server answers yet.
    const fd = openSync(this.#root.at(`${ANCHORS}/${name}`), DIRECTORY);
    try {
      return HeldMount.in(openSync(this.#root.at(ANCHORS), DIRECTORY), name, mountIdOf(fd));
    } finally {
      closeSync(fd);
    }
  }

  /** What fusermount3 has mounted for a connection, wherever its path led. */
  #findMount(id: ConnectionId): HeldMount {
    const source = mountSource(this.#root.path, id);
    const mount = readMountInfo().findLast((one) => one.source === source && ownClipMount(one) !== null);
    if (mount === undefined) throw new ClipError('SYSTEM', `fusermount3 has mounted nothing for ${source}`);
    return HeldMount.listed(mount);
  }

  /**
   * Puts the kernel's own mount of a connection at its anchor.
   * @param mount open, and nowhere in the tree yet: taken over
   */
  carry(id: ConnectionId, mount: number, files: readonly number[]): HeldConnection {
    const connection = this.get(id);
    const anchor = this.#imageAnchorOf(id);
    try {
      this.#root.make(`${ANCHORS}/${imageAnchorName(id)}`);
      attachMount(mount, anchor);
      connection.image = this.#mountOfAnchor(imageAnchorName(id));
    } catch (error) {
      removeAnchor(anchor);
      throw error;
    } finally {
      closeFd(mount);
    }
    connection.state = { ...connection.state, plane: { ...planeOf(connection.state), files } };
    return connection;
  }

  /**
   * Ends the connections whose own mount by the kernel is being made: their places are not there yet, and a thread of a dead server may
   * wait for an answer.
   */
  abortUnfinished(): void {
    for (const { state, image } of this.#byId.values()) {
      if (planeOf(state).kind !== 'kernel' || image !== null) continue;
      try {
        abortAnchor(this.#anchorOf(state.id));
      } catch (error) {
        logLine('keeper', 'warn', 'cannot end an unfinished mount', { id: state.id, error: String(error) });
      }
    }
  }

  /** @param at the place's directory and the one that it lies in, open: both are taken over */
  bind(id: ConnectionId, request: PlaceRequest, at: PlaceDescriptors, client?: ClientContext): PlaceState {
    const connection = this.get(id);
    let held: HeldMount;
    try {
      const mount = bindPlace(this.#shownOf(connection), at.fd, request.path, request);
      held = HeldMount.in(at.parent, basename(request.path), mount);
    } catch (error) {
      closeSync(at.parent);
      throw error;
    } finally {
      closeSync(at.fd);
    }
    // Its directory may have been moved between being opened and being mounted on.
    const path = held.find(readMountInfo())?.mountPoint ?? request.path;
    return this.#bound(connection, placeOf({ ...request, path }), held, client);
  }

  /** What its places show. */
  #shownOf({ state }: HeldConnection): string {
    return planeOf(state).kind === 'kernel' ? this.#imageAnchorOf(state.id) : this.#anchorOf(state.id);
  }

  #bound(
    connection: HeldConnection,
    place: PlaceState,
    held: HeldMount | ForeignMount,
    client?: ClientContext,
  ): PlaceState {
    connection.places.set(place.path, held);
    connection.state = { ...connection.state, places: [...connection.state.places, place] };
    if (client !== undefined) connection.client = client;
    this.save();
    logMounted(connection, place.path);
    return place;
  }

  /**
   * @param namespace another mount namespace, open
   * @param at the place's directory, open, or its path there
   */
  bindForeign(
    id: ConnectionId,
    request: PlaceRequest,
    namespace: number,
    at: number | string,
    client?: ClientContext,
  ): PlaceState {
    const connection = this.get(id);
    const held = ForeignMount.bind(namespace, this.#shownOf(connection), at, request.path, request);
    const path = held.find()?.mountPoint ?? request.path;
    return this.#bound(connection, { ...placeOf({ ...request, path }), foreign: held.state }, held, client);
  }

  /** A place that `repair` brought back is, from now on, the one that this request asked for. */
  adopt(id: ConnectionId, request: PlaceRequest, client: ClientContext): PlaceState {
    const connection = this.get(id);
    const place = placeOf(request);
    const places = connection.state.places.map((old) => (old.path === place.path ? place : old));
    connection.state = { ...connection.state, places };
    connection.client = client;
    this.save();
    return place;
  }

  /** @throws BUSY, NOT_FOUND, CONFLICT */
  async unbind(path: string, mode: UnmountMode): Promise<{ id: ConnectionId; closed: boolean }> {
    const connection = [...this.#byId.values()].find((c) => c.places.has(path));
    if (connection === undefined) throw new ClipError('NOT_FOUND', `${path} is not mounted by this clipd`);
    const { id } = connection.state;
    try {
      // Cutting its users off is for the last place only: the connection is shared.
      if (mode === 'force' && connection.places.size === 1) abortAnchor(this.#anchorOf(id));
      await unmountHeld(connection.places.get(path)!, mode === 'normal' ? 'normal' : 'lazy');
    } catch (error) {
      if (isBusy(error)) throw new ClipError('BUSY', `${path} is busy`, { cause: error });
      throw error;
    }
    logLine('keeper', 'info', 'unmounted', { place: path, archive: connection.state.archivePath, mode });
    return { id, closed: await this.#forgetPlace(connection, path) };
  }

  async #forgetPlace(connection: HeldConnection, path: string): Promise<boolean> {
    const { state, anchor, places } = connection;
    const held = places.get(path);
    if (held !== anchor) held?.close();
    places.delete(path);
    const closed = places.size === 0;
    connection.state = { ...state, places: state.places.filter((place) => place.path !== path), detached: closed };
    if (closed && !rootless) await this.#takeAnchors(connection);
    this.save();
    return closed;
  }

  /** The kernel has let go of it, or no server can serve it: whatever is left is unmounted and the descriptors closed. */
  async drop(id: ConnectionId): Promise<void> {
    const connection = this.#byId.get(id);
    if (connection === undefined) return;
    this.#byId.delete(id);
    await this.#takeDown(connection);
    closeConnection(connection);
    this.save();
  }

  /** Places out of the tree, busy ones lazily. One that another's mount covers stays, dead, until that has gone. */
  async #takeDown(connection: HeldConnection): Promise<void> {
    for (const [path, held] of connection.places) {
      await unmountQuietly(held);
      logLine('keeper', 'info', 'unmounted', { place: path, archive: connection.state.archivePath });
    }
    if (!rootless) await this.#takeAnchors(connection);
  }

  /** The kernel's own mount first: it holds the layers' files of the connection. */
  async #takeAnchors({ state, anchor, image }: HeldConnection): Promise<void> {
    if (image !== null) {
      await unmountQuietly(image);
      removeAnchor(this.#imageAnchorOf(state.id));
    }
    await unmountQuietly(anchor);
    removeAnchor(this.#anchorOf(state.id));
  }

  /** Takes note of places that another program unmounted or moved. @returns ids of connections that lost their last place */
  async reconcile(): Promise<number[]> {
    if (this.#byId.size === 0) return [];
    const mounts = readMountInfo();
    const closed: number[] = [];
    for (const connection of this.#byId.values()) {
      for (const [path, held] of [...connection.places]) {
        const now = held.find(mounts)?.mountPoint;
        if (now === path) continue;
        if (now !== undefined) {
          this.#move(connection, path, now);
          continue;
        }
        logLine('keeper', 'info', 'unmounted by another program', { place: path });
        if (await this.#forgetPlace(connection, path)) closed.push(connection.state.id);
      }
    }
    return closed;
  }

  /** A directory above a place was renamed. */
  #move(connection: HeldConnection, path: string, now: string): void {
    logLine('keeper', 'info', 'a place was moved', { place: path, to: now });
    connection.places.set(now, connection.places.get(path)!);
    connection.places.delete(path);
    const places = connection.state.places.map((place) => (place.path === path ? { ...place, path: now } : place));
    connection.state = { ...connection.state, places };
    this.save();
  }

  async unmountAll(): Promise<void> {
    for (const connection of this.#byId.values()) await this.#takeDown(connection);
  }

  closeAll(): void {
    for (const connection of this.#byId.values()) closeConnection(connection);
    this.#byId.clear();
  }
}

function logMounted({ state: { id, archivePath } }: HeldConnection, place: string): void {
  logLine('keeper', 'info', 'mounted', { place, archive: archivePath, mount: id });
}

function closeConnection({ fuseFd, archiveFd, anchor, image, places }: HeldConnection): void {
  for (const held of new Set([anchor, ...places.values()])) held.close();
  image?.close();
  closeFd(fuseFd);
  closeFd(archiveFd);
}
