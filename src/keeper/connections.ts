import { constants, openSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { ClipError } from '../bytes/index.js';
import { closeFd, type MountInfo, readMountInfo } from '../linux/index.js';
import type { ConnectRequest, PlaceRequest, UnmountMode } from '../wire/index.js';
import {
  CLIP_FS_TYPE,
  type ClientContext,
  type ConnectionState,
  loadState,
  mountAt,
  mountSource,
  type PlaceState,
  parseSource,
  saveState,
} from '../wire/index.js';
import { logLine } from './log-line.js';
import {
  bindPlace,
  connectFuse,
  isBusy,
  isNotMounted,
  makeAnchor,
  removeAnchor,
  rootless,
  unmountPlace,
} from './mounter.js';

/** A connection as the keeper has it: what the list says, and what only a process can hold. */
export interface Connection {
  state: ConnectionState;
  readonly fuseFd: number;
  /** Kept open: the file may be replaced or removed while it is mounted. */
  readonly archiveFd: number;
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
  readonly #root: string;
  readonly #byId = new Map<number, Connection>();
  #nextId = 1;

  constructor(root: string) {
    this.#root = root;
  }

  get states(): ConnectionState[] {
    return [...this.#byId.values()].map((connection) => connection.state);
  }

  get size(): number {
    return this.#byId.size;
  }

  get(id: number): Connection {
    const connection = this.#byId.get(id);
    if (connection === undefined) throw new ClipError('NOT_FOUND', `no connection ${id}`);
    return connection;
  }

  #save(): void {
    saveState(this.#root, this.states);
  }

  async connect(request: Omit<ConnectRequest, 'fdToken'>, archiveFd: number): Promise<Connection> {
    const id = this.#nextId++;
    const anchor = rootless ? request.place.path : join(this.#root, 'mnt', String(id));
    let fuseFd: number;
    try {
      if (!rootless) makeAnchor(anchor);
      fuseFd = await connectFuse(anchor, mountSource(this.#root, id));
    } catch (error) {
      closeFd(archiveFd);
      if (!rootless) removeAnchor(anchor);
      throw error;
    }
    const { identity, archivePath, options, client } = request;
    const places = rootless ? [placeOf(request.place)] : [];
    const connection: Connection = {
      state: { id, identity, archivePath, anchor, places, options, detached: false },
      fuseFd,
      archiveFd,
      client,
      resumed: false,
    };
    this.#byId.set(id, connection);
    this.#save();
    return connection;
  }

  bind(id: number, request: PlaceRequest, client?: ClientContext): PlaceState {
    const connection = this.get(id);
    const place = placeOf(request);
    bindPlace(connection.state.anchor, place.path, place);
    connection.state = { ...connection.state, places: [...connection.state.places, place] };
    if (client !== undefined) connection.client = client;
    this.#save();
    return place;
  }

  /** A place that `repair` brought back is, from now on, the one that this request asked for. */
  adopt(id: number, request: PlaceRequest, client: ClientContext): PlaceState {
    const connection = this.get(id);
    const place = placeOf(request);
    const places = connection.state.places.map((old) => (old.path === place.path ? place : old));
    connection.state = { ...connection.state, places };
    connection.client = client;
    this.#save();
    return place;
  }

  #markRestored(connection: Connection): void {
    const places = connection.state.places.map((place): PlaceState => ({ ...place, restored: true }));
    connection.state = { ...connection.state, places };
  }

  /** @throws BUSY, NOT_FOUND */
  async unbind(path: string, mode: UnmountMode): Promise<{ id: number; closed: boolean }> {
    const connection = [...this.#byId.values()].find((c) => c.state.places.some((place) => place.path === path));
    if (connection === undefined) throw new ClipError('NOT_FOUND', `${path} is not mounted by this clipd`);
    const last = connection.state.places.length === 1;
    // umount(2) takes what is on top, whoever's it is.
    const above = this.#coveredBy(readMountInfo(), path, connection.state.id);
    if (above !== undefined) {
      throw new ClipError('CONFLICT', `${path} is covered by another mount (${above.type}, ${above.source})`, {
        hint: `umount ${path} removes that one; then try again`,
      });
    }
    try {
      // Cutting its users off is for the last place only: the connection is shared.
      if (mode === 'force' && last && !rootless) await unmountPlace(connection.state.anchor, 'force');
      await unmountPlace(path, mode === 'normal' ? 'normal' : 'lazy');
    } catch (error) {
      if (isBusy(error)) throw new ClipError('BUSY', `${path} is busy`, { cause: error });
      throw error;
    }
    return { id: connection.state.id, closed: await this.#forgetPlace(connection, path) };
  }

  async #forgetPlace(connection: Connection, path: string): Promise<boolean> {
    const { state } = connection;
    const places = state.places.filter((place) => place.path !== path);
    const closed = places.length === 0;
    connection.state = { ...state, places, detached: closed };
    if (closed && !rootless) await this.#unmountQuietly(state.anchor);
    if (closed) removeAnchorOf(state);
    this.#save();
    return closed;
  }

  /** The kernel has let go of it, or nobody can serve it: whatever is left is unmounted and the descriptors closed. */
  async drop(id: number): Promise<void> {
    const connection = this.#byId.get(id);
    if (connection === undefined) return;
    this.#byId.delete(id);
    const mounts = readMountInfo();
    for (const { path } of connection.state.places) {
      if (this.#isOurs(mountAt(mounts, path), id)) await this.#unmountQuietly(path);
    }
    if (this.#isOurs(mountAt(mounts, connection.state.anchor), id)) await this.#unmountQuietly(connection.state.anchor);
    removeAnchorOf(connection.state);
    closeFd(connection.fuseFd);
    closeFd(connection.archiveFd);
    this.#save();
  }

  /** Another's mount on top of one of ours: to unmount the place would be to unmount that. */
  #coveredBy(mounts: readonly MountInfo[], path: string, id: number): MountInfo | undefined {
    const top = mountAt(mounts, path);
    return top === undefined || this.#isOurs(top, id) ? undefined : top;
  }

  #isOurs(mount: MountInfo | undefined, id: number): boolean {
    return mount?.type === CLIP_FS_TYPE && mount.source === mountSource(this.#root, id);
  }

  /** Takes note of places that another program unmounted. @returns ids of connections that lost their last place */
  async reconcile(): Promise<number[]> {
    if (this.#byId.size === 0) return [];
    const mounts = readMountInfo();
    const closed: number[] = [];
    for (const connection of this.#byId.values()) {
      for (const place of connection.state.places) {
        const here = mounts.some((m) => m.mountPoint === place.path && this.#isOurs(m, connection.state.id));
        if (here) continue;
        logLine('info', 'unmounted by another program', { place: place.path });
        if (await this.#forgetPlace(connection, place.path)) closed.push(connection.state.id);
      }
    }
    return closed;
  }

  async #unmountQuietly(path: string): Promise<void> {
    try {
      await unmountPlace(path, 'normal');
    } catch (error) {
      if (isNotMounted(error)) return;
      await unmountPlace(path, 'lazy').catch((error: unknown) => {
        logLine('warn', 'cannot unmount', { path, error: String(error) });
      });
    }
  }

  /** All places out of the tree, busy ones lazily. One that another's mount covers stays, dead, until that has gone. */
  async unmountAll(): Promise<void> {
    for (const { state } of this.#byId.values()) {
      for (const { path } of state.places) {
        const above = this.#coveredBy(readMountInfo(), path, state.id);
        if (above === undefined) await this.#unmountQuietly(path);
        else logLine('warn', 'covered by another mount: left', { place: path, by: above.source });
      }
      if (!rootless && !state.detached) await this.#unmountQuietly(state.anchor);
      removeAnchorOf(state);
    }
  }

  closeAll(): void {
    for (const connection of this.#byId.values()) {
      closeFd(connection.fuseFd);
      closeFd(connection.archiveFd);
    }
    this.#byId.clear();
  }

  /**
   * What an earlier clipd with this root left behind when everything was killed: its mounts are dead (ENOTCONN). They are
   * taken out of the tree and, where the archive is still there, mounted again at the same places. Users that hold files
   * of the dead mounts keep getting ENOTCONN; new opens work.
   */
  async repair(): Promise<void> {
    const old = loadState(this.#root);
    for (const mount of readMountInfo().reverse()) {
      if (mount.type !== CLIP_FS_TYPE || parseSource(mount.source)?.root !== this.#root) continue;
      if (mountAt(readMountInfo(), mount.mountPoint)?.source !== mount.source) {
        logLine('warn', 'a dead mount is covered by another: left', { place: mount.mountPoint });
        continue;
      }
      logLine('warn', 'removing a dead mount', { place: mount.mountPoint });
      await unmountPlace(mount.mountPoint, 'lazy').catch((error: unknown) => {
        logLine('warn', 'cannot unmount', { path: mount.mountPoint, error: String(error) });
      });
    }
    this.#removeEmptyAnchors();
    for (const state of old) {
      if (state.detached || state.places.length === 0) continue;
      try {
        await this.#remount(state);
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        const places = state.places.map((place) => place.path);
        logLine('error', 'a mount of the last run is not brought back', { places, archive: state.archivePath, reason });
      }
    }
    this.#save();
  }

  /** Also those that no list names any more: their last place was unmounted while no clipd ran. */
  #removeEmptyAnchors(): void {
    if (rootless) return;
    try {
      for (const id of readdirSync(join(this.#root, 'mnt'))) removeAnchor(join(this.#root, 'mnt', id));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  }

  async #remount(state: ConnectionState): Promise<void> {
    const archiveFd = openSync(state.archivePath, constants.O_RDONLY);
    const first = state.places[0]!;
    // Credentials were only in memory: the server looks for this user's own.
    const connection = await this.connect({ ...state, client: {}, place: first }, archiveFd);
    const failed: unknown[] = [];
    for (const place of rootless ? [] : state.places) {
      try {
        this.bind(connection.state.id, place);
      } catch (error) {
        failed.push(error);
        logLine('error', 'a place of the last run is not brought back', { place: place.path, error: String(error) });
      }
    }
    if (connection.state.places.length === 0) {
      await this.drop(connection.state.id);
      throw failed[0];
    }
    this.#markRestored(connection);
    logLine('info', 'mounted again', { places: connection.state.places.map((place) => place.path) });
  }
}

function removeAnchorOf(state: ConnectionState): void {
  if (!rootless) removeAnchor(state.anchor);
}
