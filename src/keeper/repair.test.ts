import { mkdirSync, mkdtempSync, openSync, readdirSync, rmdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, test } from 'vitest';
import { type MountInfo, readMountInfo, unmount } from '../linux/index.js';
import { OwnDirectory, openPlaceInParent } from '../paths/index.js';
import { DEFAULT_IMAGE_OPTIONS, loadState, type PlaceRequest } from '../wire/index.js';
import { ANCHORS, Connections } from './connections.js';
import { repair } from './repair.js';

// The mounts are the kernel's own. No server answers them, so no test looks into one that is alive.

let dir: string;
const opened: { readonly connections: Connections; readonly root: OwnDirectory }[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'clip-repair-'));
});
afterEach(() => {
  // Closing the descriptors ends the connections: nothing below can wait for a server.
  for (const { connections, root } of opened.splice(0)) {
    connections.closeAll();
    root.close();
  }
  for (const { mountPoint } of mountsBelow(dir).reverse()) unmount(mountPoint, 'lazy');
  rmSync(dir, { recursive: true });
});

const mountsBelow = (path: string): MountInfo[] =>
  readMountInfo().filter(({ mountPoint }) => mountPoint.startsWith(`${path}/`));
const mountsAt = (path: string): MountInfo[] => readMountInfo().filter(({ mountPoint }) => mountPoint === path);

function start(rootName = 'root'): Connections {
  const path = join(dir, rootName);
  mkdirSync(path, { recursive: true, mode: 0o700 });
  const root = OwnDirectory.open(path);
  const connections = new Connections(root);
  opened.push({ connections, root });
  return connections;
}

/** As the keeper does when it starts. */
async function repaired(connections: Connections): Promise<void> {
  await repair(opened.find((one) => one.connections === connections)!.root, connections);
}

function listed(rootName = 'root'): ReturnType<typeof loadState> {
  const root = OwnDirectory.open(join(dir, rootName));
  try {
    return loadState(root);
  } finally {
    root.close();
  }
}

function placeNamed(name: string, flags: Partial<PlaceRequest> = {}): PlaceRequest {
  const path = join(dir, name);
  mkdirSync(path, { recursive: true });
  return { path, suid: false, dev: false, requestId: `request ${name}`, ...flags };
}

const FUSE = { kind: 'fuse', reason: 'as set', files: [] } as const;

/** Mounts an archive at places, as the keeper does for the server. */
async function mount(connections: Connections, archive: string, places: readonly PlaceRequest[]): Promise<number> {
  const archivePath = join(dir, archive);
  writeFileSync(archivePath, archive);
  const options = { ...DEFAULT_IMAGE_OPTIONS, readTimeout: 7 };
  const request = { identity: `sha256:${archive}`, archivePath, options, client: {}, plane: FUSE, place: places[0]! };
  const { state } = await connections.connect(request, openSync(archivePath, 'r'));
  for (const place of places) connections.bind(state.id, place, openPlaceInParent(place.path));
  return state.id;
}

const errorCodeAt = (path: string): unknown => {
  try {
    statSync(path);
    return null;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code;
  }
};

test.runIf(process.getuid?.() === 0)(
  'a mount below a root directory that was removed fails, and does not spin',
  async () => {
    const connections = start();
    rmSync(join(dir, 'root'), { recursive: true });
    await expect(mount(connections, 'late.clip', [placeNamed('late')])).rejects.toMatchObject({ code: 'ENOENT' });
  },
);

describe.runIf(process.getuid?.() === 0)('the repair after a crash', () => {
  it('mounts each place again, where it was and as it was, and takes the dead mounts away', async () => {
    const [one, two] = [placeNamed('one'), placeNamed('two', { suid: true, dev: true })];
    const killed = start();
    await mount(killed, 'app.clip', [one, two]);
    const before = [mountsAt(one.path), mountsAt(two.path)].flat();
    expect(before).toHaveLength(2);
    killed.closeAll(); // as the kernel does for a killed process
    expect([errorCodeAt(one.path), errorCodeAt(two.path)]).toEqual(['ENOTCONN', 'ENOTCONN']);

    const next = start();
    await repaired(next);
    for (const { path } of [one, two]) expect(mountsAt(path)).toHaveLength(1);
    const [afterOne, afterTwo] = [mountsAt(one.path)[0]!, mountsAt(two.path)[0]!];
    // Both places show one connection.
    expect(afterTwo.device).toBe(afterOne.device);
    expect(afterTwo.source).toBe(afterOne.source);
    expect(mountsBelow(join(dir, 'root'))).toHaveLength(1);

    const options = { ...DEFAULT_IMAGE_OPTIONS, readTimeout: 7 };
    expect(next.states).toMatchObject([
      {
        identity: 'sha256:app.clip',
        archivePath: join(dir, 'app.clip'),
        options,
        detached: false,
        places: [
          { ...one, restored: true },
          { ...two, restored: true },
        ],
      },
    ]);
    expect(listed()).toEqual(next.states);
    const [state] = next.states;
    expect([...next.get(state!.id).places.keys()]).toEqual([one.path, two.path]);
    expect(next.get(state!.id).resumed).toBe(false);
  });

  it('a request for a restored place makes it an ordinary one', async () => {
    const [one, two] = [placeNamed('one'), placeNamed('two')];
    const killed = start();
    await mount(killed, 'app.clip', [one, two]);
    killed.closeAll();
    const next = start();
    await repaired(next);
    const { id } = next.states[0]!;
    next.adopt(id, { ...one, requestId: 'later' }, { user: 'x' });
    const places = listed()[0]!.places;
    expect(places.map(({ requestId, restored }) => [requestId, restored])).toEqual([
      ['later', undefined],
      [two.requestId, true],
    ]);
    expect(next.get(id).client).toEqual({ user: 'x' });
  });

  it('an archive or a place that has gone keeps nothing else from coming back', async () => {
    const [kept, lost, orphan, last] = ['kept', 'lost', 'orphan', 'last'].map((name) => placeNamed(name)) as [
      PlaceRequest,
      PlaceRequest,
      PlaceRequest,
      PlaceRequest,
    ];
    const killed = start();
    await mount(killed, 'removed.clip', [orphan]);
    await mount(killed, 'no-place-left.clip', [last]);
    await mount(killed, 'app.clip', [lost, kept]);
    killed.closeAll();
    rmSync(join(dir, 'removed.clip'));
    for (const { path } of [lost, last]) {
      unmount(path, 'lazy');
      rmdirSync(path);
    }

    const next = start();
    await repaired(next);
    expect(next.states.map(({ identity, places }) => [identity, places.map(({ path }) => path)])).toEqual([
      ['sha256:app.clip', [kept.path]],
    ]);
    expect(listed()).toEqual(next.states);
    expect(mountsBelow(dir).map(({ mountPoint }) => mountPoint)).toEqual([next.states[0]!.anchor, kept.path]);
    // The place without its archive is an empty directory again, not a dead mount.
    expect(readdirSync(orphan.path)).toEqual([]);
    expect(readdirSync(join(dir, 'root', ANCHORS))).toEqual([String(next.states[0]!.id)]);
  });

  it('does not bring back what was unmounted, and removes its anchor', async () => {
    const place = placeNamed('one');
    const killed = start();
    const id = await mount(killed, 'app.clip', [place]);
    expect(await killed.unbind(place.path, 'normal')).toEqual({ id, closed: true });
    expect(listed()).toMatchObject([{ id, detached: true, places: [] }]);
    mkdirSync(join(dir, 'root', ANCHORS, '99')); // of a connection that no list names
    killed.closeAll();

    const next = start();
    await repaired(next);
    expect(next.states).toEqual([]);
    expect(listed()).toEqual([]);
    expect(mountsBelow(dir)).toEqual([]);
    expect(readdirSync(join(dir, 'root', ANCHORS))).toEqual([]);
  });

  it('leaves the mounts of another root alone, dead or alive', async () => {
    const [ours, theirs] = [placeNamed('ours'), placeNamed('theirs')];
    const killed = start();
    await mount(killed, 'ours.clip', [ours]);
    const other = start('other');
    await mount(other, 'theirs.clip', [theirs]);
    const before = mountsAt(theirs.path);
    killed.closeAll();

    await repaired(start());
    expect(mountsAt(theirs.path)).toEqual(before);
    other.closeAll();
    await repaired(start());
    expect(mountsAt(theirs.path)).toEqual(before);
    expect(errorCodeAt(theirs.path)).toBe('ENOTCONN');
  });

  it('does nothing for a root that mounted nothing', async () => {
    const connections = start();
    await repaired(connections);
    expect(connections.size).toBe(0);
    expect(listed()).toEqual([]);
  });
});
