import { readdirSync, rmSync } from 'node:fs';
import type { ConnectionId } from '../bytes/index.js';
import { ClipError } from '../bytes/index.js';
import { type MountInfo, readMountInfo } from '../linux/index.js';
import { logLine } from '../metrics/index.js';
import { type OwnDirectory, openPlaceInParent } from '../paths/index.js';
import {
  type ConnectionState,
  foreignParts,
  loadState,
  ownClipMount,
  type PlaceState,
  planeOf,
} from '../wire/index.js';
import { ANCHORS, type Connections, type HeldConnection } from './connections.js';
import { ForeignMount, NAMESPACE_GONE, openListedArchive } from './foreign-mount.js';
import { HeldMount } from './held-mount.js';
import { removeAnchor, rootless, unmountHeld, unmountQuietly } from './mounter.js';

/**
 * An earlier clipd of this root that was killed has left dead mounts (ENOTCONN). They are
 * taken out of the tree and, where the archive is still there, mounted again at the same places. Users that hold files
 * of the dead mounts keep getting ENOTCONN; new opens work.
 */
export async function repair(root: OwnDirectory, connections: Connections): Promise<void> {
  const old = loadState(root);
  for (const mount of readMountInfo().reverse()) {
    if (ownClipMount(mount)?.root === root.path) await removeDead(mount);
  }
  for (const { places } of old) for (const place of places) await removeDeadForeign(place);
  removeEmptyAnchors(root);
  for (const state of old) {
    if (state.detached || state.places.length === 0) continue;
    try {
      await remount(connections, state);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      const places = state.places.map((place) => place.path);
      logLine('keeper', 'error', 'a mount of the last run is not brought back', {
        places,
        archive: state.archivePath,
        reason,
      });
    }
  }
  connections.save();
}

/** Binds the places of a kernel's mount that was brought back: they have waited for the server that makes it. */
export function bindWaiting(connections: Connections, connection: HeldConnection): void {
  const waiting = connection.state.places.filter(({ path }) => !connection.places.has(path));
  if (waiting.length === 0) return;
  rebindAll(connections, connection, waiting);
  markRestored(connection);
  connections.save();
  logLine('keeper', 'info', 'mounted again', { places: connection.state.places.map((place) => place.path) });
}

function markRestored(connection: HeldConnection): void {
  const places = connection.state.places.map((place): PlaceState => ({ ...place, restored: true }));
  connection.state = { ...connection.state, places };
}

async function removeDead(mount: MountInfo): Promise<void> {
  const place = mount.mountPoint;
  try {
    const held = HeldMount.listed(mount);
    try {
      await unmountHeld(held, 'lazy');
      logLine('keeper', 'warn', 'removed a dead mount', { place });
    } finally {
      held.close();
    }
  } catch (error) {
    logLine('keeper', 'warn', 'a dead mount is left', {
      place,
      error: error instanceof Error ? error.message : String(error),
    });
  }
}

async function removeDeadForeign({ path, foreign }: PlaceState): Promise<void> {
  const held = foreign === undefined ? null : ForeignMount.listed(foreign, path);
  if (held === null || held.find() === null) return;
  await unmountQuietly(held);
  logLine('keeper', 'warn', 'removed a dead mount', { place: path });
}

/** Also those that no list names any more: their last place was unmounted while no clipd ran. */
function removeEmptyAnchors(root: OwnDirectory): void {
  if (rootless) return;
  try {
    for (const entry of readdirSync(root.at(ANCHORS), { withFileTypes: true })) {
      const path = root.at(`${ANCHORS}/${entry.name}`);
      // A link is the source of a kernel's mount that was being made.
      if (entry.isSymbolicLink()) rmSync(path);
      else removeAnchor(path);
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}

async function remount(connections: Connections, state: ConnectionState): Promise<void> {
  const archiveFd = openListedArchive(state);
  const first = state.places[0]!;
  // Credentials were only in memory: the server looks for this user's own.
  const plane = planeOf(state);
  const connection = await connections.connect({ ...state, plane, client: {}, place: first }, archiveFd);
  if (plane.kind === 'kernel') {
    // They wait for the server, which makes the mount that they show: see `bindWaiting`.
    connection.state = { ...connection.state, places: state.places };
    markRestored(connection);
    return;
  }
  const failed = rootless ? [] : rebindAll(connections, connection, state.places);
  if (connection.state.places.length === 0) {
    await connections.drop(connection.state.id);
    throw failed[0];
  }
  markRestored(connection);
  logLine('keeper', 'info', 'mounted again', { places: connection.state.places.map((place) => place.path) });
}

/** @returns why some are not brought back */
function rebindAll(connections: Connections, connection: HeldConnection, places: readonly PlaceState[]): unknown[] {
  const failed: unknown[] = [];
  const among = new Set(places.map(({ path }) => path));
  connection.state = { ...connection.state, places: connection.state.places.filter(({ path }) => !among.has(path)) };
  for (const place of places) {
    try {
      rebind(connections, connection.state.id, place);
    } catch (error) {
      failed.push(error);
      logLine('keeper', 'error', 'a place of the last run is not brought back', {
        place: place.path,
        error: String(error),
      });
    }
  }
  return failed;
}

function rebind(connections: Connections, id: ConnectionId, place: PlaceState): void {
  if (place.foreign !== undefined) {
    const { path } = foreignParts(place.path)!;
    const again = ForeignMount.listed(place.foreign, place.path)?.inside((namespace) =>
      connections.bindForeign(id, place, namespace, path),
    );
    if (again === undefined) throw new ClipError('NOT_FOUND', NAMESPACE_GONE);
    return;
  }
  const { path, ...at } = openPlaceInParent(place.path);
  connections.bind(id, { ...place, path }, at);
}
