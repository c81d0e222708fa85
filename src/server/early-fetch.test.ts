import { mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { digestOf, smallArchive } from '../../test/support/archives.js';
import { sealed } from '../../test/support/forged.js';
import { openArchive } from '../archive/index.js';
import { SpanCache } from '../cache/index.js';
import { FusePool } from '../fuse/index.js';
import { Metrics, silentLogger } from '../metrics/index.js';
import type { HelloResult } from '../wire/index.js';
import type { KeeperLink } from './carry.js';
import { connectEarly } from './early-source.js';
import { Engine } from './engine.js';
import { MountList } from './mount-list.js';

const undo: (() => unknown)[] = [];
afterEach(async () => {
  for (let step = undo.pop(); step; step = undo.pop()) await step();
});

function scratch(): string {
  const directory = mkdtempSync(join(tmpdir(), 'clip-early-'));
  undo.push(() => rmSync(directory, { recursive: true }));
  return directory;
}

/** An archive whose layers are in a registry on this port, with a recorded profile. `change` damages it. */
function archiveAt(directory: string, port: number, change: (bytes: Uint8Array) => void = () => {}): string {
  const contents = smallArchive();
  const image = { ...contents.image, registry: `127.0.0.1:${port}` };
  const bytes = sealed({ ...contents, image });
  change(bytes);
  const path = join(directory, 'image.clip');
  writeFileSync(path, bytes);
  return path;
}

function damage(name: 'tree' | 'spans'): (bytes: Uint8Array) => void {
  return (bytes) => {
    const input = { name: 'x', size: bytes.length, readAt: (at: number, n: number) => bytes.subarray(at, at + n) };
    bytes[openArchive(input).sections.find((section) => section.name === name)!.offset]! ^= 1;
  };
}

/** A registry that answers nothing. `asked` resolves with the path of the first request. */
async function silentRegistry(): Promise<{ port: number; asked: Promise<string> }> {
  let ask = (_path: string): void => {};
  const asked = new Promise<string>((resolve) => {
    ask = resolve;
  });
  const server = createServer((request) => ask(request.url ?? ''));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  undo.push(() => {
    server.closeAllConnections();
    server.close();
  });
  return { port: (server.address() as AddressInfo).port, asked };
}

/** A server's mounts, with a keeper that answers `connect` as the test says. */
async function mountsWith(directory: string, connect: () => Promise<never>): Promise<MountList> {
  const [root, cacheDir] = [join(directory, 'root'), join(directory, 'cache')];
  mkdirSync(root, { mode: 0o700 });
  const log = silentLogger();
  const fuse = new FusePool({ onMiss: () => {}, onInterrupt: () => false, onGone: () => {} });
  const engine = await Engine.start({ settings: { root, cacheDir }, log, metrics: new Metrics() }, fuse);
  undo.push(() => engine.drain(0));
  const keeper = { call: async (name: string) => (name === 'list' ? [] : await connect()) };
  const link = { keeper, fds: { send: () => 'token' } } as unknown as KeeperLink;
  const hello = { connections: [], rootless: false } as unknown as HelloResult;
  return new MountList(hello, engine, link, log);
}

function mount(list: MountList, directory: string, archivePath: string): Promise<unknown> {
  const mountPoint = join(directory, 'mnt');
  mkdirSync(mountPoint);
  const options = { plane: 'fuse', plainHttp: true } as const;
  return list.mount({ archivePath, mountPoint, requestId: 'a', options, suid: false, dev: false, access: {} });
}

test('the first bytes of a profile are asked for before the keeper has made the mount', async () => {
  const directory = scratch();
  const { port, asked } = await silentRegistry();
  const order: string[] = [];
  const list = await mountsWith(directory, async () => {
    // A mount that waited for this before it fetched would never end.
    order.push(await asked);
    throw new Error('not mounted');
  });
  await expect(mount(list, directory, archiveAt(directory, port))).rejects.toThrow('not mounted');
  expect(order).toEqual([expect.stringMatching(/^\/v2\/test\/blobs\/sha256:[0-9a-f]{64}$/)]);
});

test('an archive with a damaged tree is refused before the keeper is asked, although its bytes are being fetched', async () => {
  const directory = scratch();
  const { port } = await silentRegistry();
  let connects = 0;
  const list = await mountsWith(directory, async () => {
    connects++;
    throw new Error('not mounted');
  });
  const archive = archiveAt(directory, port, damage('tree'));
  await expect(mount(list, directory, archive)).rejects.toThrow(/image\.clip: section tree.*sha256 differs/);
  expect(connects).toBe(0);
});

test('connections to the registry are opened before the spans of the archive are read', async () => {
  const directory = scratch();
  let seen = (): void => {};
  const connected = new Promise<void>((resolve) => {
    seen = resolve;
  });
  const server = createTcpServer((socket) => {
    socket.on('error', () => {});
    seen();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  undo.push(() => server.close());
  const { port } = server.address() as AddressInfo;
  const cache = await SpanCache.open(join(directory, 'cache'));
  undo.push(() => cache.close());
  const early = (options = {}): ReturnType<typeof connectEarly> => {
    const archive = archiveAt(directory, port, damage('spans'));
    return connectEarly(openSync(archive, 'r'), { plainHttp: true, ...options }, {}, cache);
  };
  expect(early({ prefetch: false })).toBeNull();
  expect(early({ readahead: false })).toBeNull();
  const source = early();
  await connected;
  await source!.close();
});

test('no connection is opened early for layers of which the disk has bytes', async () => {
  const directory = scratch();
  const held = new Set([digestOf('layer 0'), digestOf('layer 1')]);
  const early = (): ReturnType<typeof connectEarly> => {
    const cache = { holds: (digest: string) => held.has(digest) } as SpanCache;
    return connectEarly(openSync(archiveAt(directory, 1), 'r'), { plainHttp: true }, {}, cache);
  };
  const source = early();
  expect(source).not.toBeNull(); // the third layer is missing
  await source!.close();
  held.add(digestOf('layer 2'));
  expect(early()).toBeNull();
});
