import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type Archive, openArchive } from '../../src/archive/index.js';
import type { Nid } from '../../src/bytes/index.js';
import { ClipdClient, prepareMount } from '../../src/client/index.js';
import { ErofsReader } from '../../src/erofs/index.js';
import { parseProfile, type TouchedRange } from '../../src/lazy/index.js';
import { mountFileSystem, readsDirectly, unmount } from '../../src/linux/index.js';
import type { MountInfoReply } from '../../src/wire/index.js';
import { Clipctl, runProgram } from '../support/clipctl.js';
import { layerLike } from '../support/gzip.js';
import { writeImage } from '../support/images.js';
import { kernelTrouble } from '../support/kernel-log.js';
import { alive, eventually, health, isDead, listed, mountedAs, sha256Of } from '../support/mounted.js';
import { type RegistryProxy, startProxy } from '../support/proxy.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';
import { dir, file, paxSparse, tar } from '../support/tar.js';

// What only the kernel plane has: which plane serves an image and why, layers that the kernel reads by itself, and what becomes of them. Its
// reads and its life with servers are tested by the FUSE plane's tests (kernel-plane-mount.test.ts and its neighbours).

const LARGE = layerLike(6e6, 7);
const FILES = new Map<string, Uint8Array>([
  ['large', LARGE],
  ['data/small', layerLike(30_000, 8)],
  ['data/zeros', Buffer.concat([layerLike(5000, 9), new Uint8Array(3e6), layerLike(5000, 10)])],
]);

let registry: TestRegistry;
let proxy: RegistryProxy;
let clip: Clipctl;
let archive: string;
let odd: string;
/** Of files that are read or not, one after the other, and too large for a profile to join across one. */
let apart: string;
const APART = 20;
const APART_BYTES = 50_000;
let trouble: string[];

beforeAll(async () => {
  trouble = kernelTrouble();
  registry = await startRegistry();
  proxy = await startProxy({ upstream: registry.url });
  clip = await Clipctl.create();
  const image = writeImage([tar(dir('data'), ...[...FILES].map(([name, bytes]) => file(name, bytes)))]);
  await registry.push(image.reference, 'plane:latest');
  image.remove();
  archive = clip.path('a.clip');
  await clip.ok('index', '--image', `${proxy.host}/plane:latest`, '--out', archive, '--checkpoint', '1');
  const placed = writeImage([tar(paxSparse('1.0', 'sparse', 100_000, [[70_001, 'y']]))]);
  odd = clip.path('odd.clip');
  await clip.ok('index', '--image', placed.reference, '--out', odd);
  placed.remove();
  const many = Array.from({ length: APART }, (_, i) => file(`f${i}`, layerLike(APART_BYTES, i)));
  const separate = writeImage([tar(...many)]);
  await registry.push(separate.reference, 'apart:latest');
  separate.remove();
  apart = clip.path('apart.clip');
  await clip.ok('index', '--image', `${proxy.host}/apart:latest`, '--out', apart);
});
afterAll(async () => {
  await clip.close();
  await proxy.stop();
  await registry.stop();
  expect(kernelTrouble(trouble)).toEqual([]);
});

let own: Clipctl;
let place: string;
beforeEach(async () => {
  proxy.fault = null;
  own = await Clipctl.create();
  place = await own.place('a');
});
afterEach(async () => {
  await own.close();
});

function openOf(path: string): Archive {
  const bytes = readFileSync(path);
  return openArchive({ name: path, size: bytes.length, readAt: (at, n) => bytes.subarray(at, at + n) });
}

const dropCaches = (): void => writeFileSync('/proc/sys/vm/drop_caches', '1');

const mountedPlane = async (at = place): Promise<MountInfoReply['plane']> =>
  (await listed(own)).find(({ mountPoint }) => mountPoint === at)!.plane;

/** Never synchronously: the registry's proxy lives in this process. */
async function verify(at = place): Promise<void> {
  for (const [name, bytes] of FILES) expect(sha256Of(await readFile(`${at}/${name}`)), name).toBe(sha256Of(bytes));
}

/** Mounts with all bytes in the cache, so that the kernel reads the layer's own file. */
async function mountComplete(): Promise<void> {
  await own.ok('mount', '--clip', archive, '--at', place, '--plane', 'kernel');
  await own.ok('prefetch', place);
  const sealed = (): boolean => {
    const spans = own.path('cache', 'spans');
    const layer = readdirSync(spans).find((name) => !name.endsWith('.table'))!;
    return (statSync(`${spans}/${layer}`).mode & 0o200) === 0;
  };
  await eventually(sealed);
  expect((await own.ok('ps')).stdout).toContain('through clipd; mounted anew it reads complete ones by itself');
  await own.ok('umount', place);
  await own.ok('mount', '--clip', archive, '--at', place, '--plane', 'kernel');
  expect(await mountedPlane()).toEqual({ kind: 'kernel', reason: 'as set', files: [0] });
}

async function killEverything(): Promise<void> {
  const { keeperPid, serverPid } = await health(own);
  process.kill(keeperPid, 'SIGKILL');
  await eventually(() => !alive(serverPid) && !alive(keeperPid));
  await eventually(() => isDead(place));
}

describe('which plane serves an image, and why', () => {
  test('kernel: the kernel’s own EROFS, and ps says what it reads through clipd', async () => {
    await own.ok('mount', '--clip', archive, '--at', place, '--plane', 'kernel');
    expect(mountedAs(place)?.type).toBe('erofs');
    await verify();
    expect((await own.ok('ps')).stdout).toContain('the kernel serves it, and reads its layers through clipd');
    expect((await own.ok('stats')).stdout).toMatch(/^plane of .*: kernel: as set$/m);
  });

  test('an archive that EROFS cannot describe is refused, and with auto served by FUSE', async () => {
    const refused = await own.run(['mount', '--clip', odd, '--at', place, '--plane', 'kernel']);
    expect([refused.code, refused.stderr]).toEqual([
      10,
      expect.stringContaining('files whose data EROFS cannot describe'),
    ]);
    expect(refused.stderr).toContain('--plane auto');
    await own.ok('mount', '--clip', odd, '--at', place, '--plane', 'auto');
    expect(mountedAs(place)?.type).toBe('fuse.clip');
    expect((await own.ok('ps')).stdout).toContain('FUSE serves it: the archive has files whose data EROFS cannot');
  });

  test('a cache directory that the kernel does not mount from: auto takes FUSE and says why', async () => {
    const cache = own.path('cache');
    mkdirSync(cache);
    mountFileSystem({ type: 'tmpfs', source: 'tmpfs', target: cache, flags: 0, data: 'mode=700' });
    try {
      await own.ok('mount', '--clip', archive, '--at', place, '--plane', 'auto');
      expect(await mountedPlane()).toMatchObject({ kind: 'fuse', reason: expect.stringContaining('no tmpfs') });
      await own.ok('umount', place);
      await own.stop();
    } finally {
      unmount(cache, 'lazy');
    }
  });

  test('one image has one plane: a contradiction is refused, auto agrees with either', async () => {
    await own.ok('mount', '--clip', archive, '--at', place, '--plane', 'kernel');
    const refused = await own.run(['mount', '--clip', archive, '--at', await own.place('b'), '--plane', 'fuse']);
    expect([refused.code, refused.stderr]).toEqual([14, expect.stringContaining('plane kernel, not fuse')]);
    await own.ok('mount', '--clip', archive, '--at', await own.place('c'), '--plane', 'auto');
    expect(mountedAs(own.path('c'))?.type).toBe('erofs');
    await own.ok('umount', place);
    await own.ok('umount', own.path('c'));
    await own.ok('mount', '--clip', archive, '--at', place, '--plane', 'auto');
    expect(await mountedPlane()).toEqual({ kind: 'kernel', reason: 'auto, and it can', files: [] });
  });

  test('CLIP_PLANE is the default, and a wrong one is named', async () => {
    const env = { CLIP_PLANE: 'kernal' };
    const ran = await own.run(['mount', '--clip', archive, '--at', place], { env });
    expect([ran.code, ran.stderr]).toEqual([2, expect.stringMatching(/CLIP_PLANE.*kernal|kernal.*CLIP_PLANE/)]);
  });
});

test('a kept tree that is damaged is written again before the kernel sees it', async () => {
  await own.ok('mount', '--clip', archive, '--at', place, '--plane', 'kernel');
  await own.ok('umount', place);
  const trees = own.path('cache', 'kernel-trees');
  const [name] = readdirSync(trees) as [string];
  const kept = readFileSync(`${trees}/${name}`);
  const damaged = Buffer.from(kept);
  damaged.fill(0xff, 1100, 1400);
  writeFileSync(`${trees}/${name}`, damaged);
  await own.ok('mount', '--clip', archive, '--at', place, '--plane', 'kernel');
  await verify();
  expect(readFileSync(`${trees}/${name}`).equals(kept)).toBe(true);
});

test('a damaged tree of an archive whose tree the kernel has is noticed where it is read', async () => {
  await own.ok('mount', '--clip', archive, '--at', place, '--plane', 'kernel');
  await own.ok('umount', place);
  const bytes = readFileSync(archive);
  const { sections } = openOf(archive);
  const tree = sections.find(({ name }) => name === 'tree')!;
  bytes.fill(0x55, tree.offset, tree.offset + tree.storedLength);
  const damaged = own.path('damaged.clip');
  writeFileSync(damaged, bytes);
  const refused = await own.run(['mount', '--clip', damaged, '--at', place, '--plane', 'fuse']);
  expect([refused.code, refused.stderr]).toEqual([4, expect.stringContaining('section tree')]);
  // The tree that the kernel shows is the one that the archive's header names.
  await own.ok('mount', '--clip', damaged, '--at', place, '--plane', 'kernel');
  await verify();
});

test.each(['fuse', 'kernel'])('a sequential reader is read ahead of: %s', async (plane) => {
  await own.ok('mount', '--clip', archive, '--at', place, '--plane', plane, '--no-prefetch');
  const handle = await open(`${place}/large`);
  try {
    const buffer = Buffer.alloc(65_536);
    for (let at = 0; at < LARGE.length * 0.6; at += buffer.length) await handle.read(buffer, 0, buffer.length, at);
  } finally {
    await handle.close();
  }
  // The rest of the file may have been guessed before.
  const { readaheadBytes, speculatedBytes } = (await own.stats()).counters;
  expect(readaheadBytes! + speculatedBytes!).toBeGreaterThan(0);
});

test.each(['fuse', 'kernel'])('a file is read without its neighbours in the tar: %s', async (plane) => {
  await own.ok('mount', '--clip', apart, '--at', place, '--plane', plane, '--no-prefetch');
  const read = Array.from({ length: APART / 2 }, (_, i) => `f${2 * i}`);
  for (const name of read) await readFile(`${place}/${name}`);
  const recorded = own.path('profile');
  await own.ok('profile', 'stop', place, '--out', recorded);
  const { ranges } = parseProfile(readFileSync(recorded, 'utf8'), recorded);
  // The pages of the layer that the files have bytes of, and no other.
  const { tree } = openOf(apart);
  const reader = new ErofsReader(tree);
  const expected: TouchedRange[] = [];
  for (const name of read) {
    reader.mapRange(reader.lookupPath(Buffer.from(name)) as Nid, 0, APART_BYTES, (layer, at, length) => {
      const [start, end] = [Math.floor(at / 4096) * 4096, Math.ceil((at + length) / 4096) * 4096];
      expected.push({ layer, start, end });
    });
  }
  expect(ranges.toSorted((a, b) => a.start - b.start)).toEqual(expected.toSorted((a, b) => a.start - b.start));
});

test('signals that a reader handles do not end its reads', async () => {
  await own.ok('mount', '--clip', archive, '--at', place, '--plane', 'kernel', '--no-prefetch');
  proxy.fault = () => ({ delayMs: 50 });
  const program = `
    process.on('SIGUSR2', () => {});
    const killer = require('node:child_process').spawn('sh', ['-c', 'while kill -USR2 ' + process.pid + ' 2>&-; do :; done']);
    process.stdout.write(require('node:crypto').createHash('sha256').update(require('node:fs').readFileSync(process.argv[1])).digest('hex'));
    killer.kill('SIGKILL');`;
  const ran = await runProgram(process.execPath, ['-e', program, `${place}/large`]);
  expect(ran).toMatchObject({ code: 0, stdout: sha256Of(LARGE) });
});

test('a server that is killed at any moment of a mount leaves nothing, and the next one mounts', async () => {
  const kept = await own.place('kept');
  await own.ok('mount', '--clip', archive, '--at', kept, '--plane', 'fuse', '--no-prefetch');
  // A second archive of the same image has a mount of its own.
  const copy = own.path('copy.clip');
  copyFileSync(archive, copy);
  const client = new ClipdClient(own.path('root'));
  const mount = async (): Promise<void> => {
    const request = await prepareMount({ archivePath: copy, mountPoint: place, options: { plane: 'kernel' } }, {});
    await client.mount(request);
  };
  await mount(); // the tree is written, which takes longest
  await client.unmount({ mountPoint: place, mode: 'normal' });
  for (const delay of [0, 3, 6, 10, 15, 25, 40]) {
    const { serverPid } = await client.health();
    // Asked again of the next server, unless the keeper has taken the unfinished mount down.
    const mounting = mount().then(
      () => true,
      () => false,
    );
    await new Promise((resolve) => setTimeout(resolve, delay));
    process.kill(serverPid, 'SIGKILL');
    if (!(await mounting)) await mount();
    expect(mountedAs(place)?.type).toBe('erofs');
    await verify();
    await client.unmount({ mountPoint: place, mode: 'normal' });
    await eventually(() => own.mounts().every((at) => !at.startsWith(place)));
  }
  await verify(kept);
  await own.ok('umount', kept);
  await eventually(() => own.mounts().length === 0);
}, 180_000);

describe('a complete layer is the kernel’s', () => {
  test('its bytes are in the page cache once, where the disk can be read directly', async () => {
    await mountComplete();
    const { options } = mountedAs(place)!;
    const spans = own.path('cache', 'spans');
    const fd = openSync(`${spans}/${readdirSync(spans).find((name) => !name.endsWith('.table'))!}`, 'r');
    expect(options.includes('directio')).toBe(readsDirectly(fd, 512));
    closeSync(fd);
    await verify();
  });

  test('it goes on when every process of clip is killed, and is mounted again by the next clipd', async () => {
    await mountComplete();
    proxy.fault = () => ({ refuse: true });
    await killEverything();
    dropCaches();
    await verify();
    // The next clipd has not checked the bytes yet: it passes them through itself.
    await own.ok('mount', '--clip', archive, '--at', await own.place('b'), '--plane', 'kernel');
    expect(own.mounts().filter((mountPoint) => mountPoint === place)).toEqual([place]);
    expect((await mountedPlane()).files).toEqual([]);
    dropCaches();
    await verify();
    await verify(own.path('b'));
  });

  test('its file is never changed: not by a prune, nor when it is unmounted while a reader has it', async () => {
    await mountComplete();
    proxy.fault = () => ({ refuse: true });
    await own.ok('cache', 'prune', '--mounted');
    dropCaches();
    await verify();
    const fd = openSync(`${place}/large`, 'r');
    try {
      await own.ok('umount', '--lazy', place);
      await own.stop();
      await own.ok('cache', 'prune');
      expect(readdirSync(own.path('cache', 'spans'))).toEqual([]);
      dropCaches();
      const bytes = Buffer.alloc(LARGE.length);
      let done = 0;
      while (done < bytes.length) {
        const count = readSync(fd, bytes, done, bytes.length - done, done);
        if (count === 0) break;
        done += count;
      }
      expect(sha256Of(bytes)).toBe(sha256Of(LARGE));
    } finally {
      closeSync(fd);
    }
  });

  test('a server that is killed changes nothing, and the next one leaves the file alone', async () => {
    await mountComplete();
    const { serverPid } = await health(own);
    process.kill(serverPid, 'SIGKILL');
    await eventually(async () => (await health(own)).serverPid !== serverPid);
    await own.ok('cache', 'prune', '--mounted');
    dropCaches();
    await verify();
    expect((await mountedPlane()).files).toEqual([0]);
  });

  test('a sealed file that the disk has changed is replaced after its mount', async () => {
    await mountComplete();
    await own.ok('umount', place);
    await own.stop();
    const spans = own.path('cache', 'spans');
    const layer = `${spans}/${readdirSync(spans).find((name) => !name.endsWith('.table'))!}`;
    const bytes = readFileSync(layer);
    bytes.fill(0x55, 1_000_000, 1_000_100);
    writeFileSync(layer, bytes);
    await own.ok('mount', '--clip', archive, '--at', place, '--plane', 'kernel');
    expect((await mountedPlane()).files).toEqual([]);
    await verify();
    await own.ok('umount', place);
    await eventually(() => !existsSync(layer));
    await mountComplete();
    await verify();
  });
});

test('cache verify drops what the kernel has of a damaged span: the layer’s pages and the image’s', async () => {
  await own.ok('mount', '--clip', archive, '--at', place, '--plane', 'kernel', '--no-readahead', '--no-prefetch');
  const AT = 600 * 1024; // farther from the start than the kernel reads ahead
  const page = async (offset: number): Promise<string> => {
    const handle = await open(`${place}/large`);
    try {
      return sha256Of((await handle.read(Buffer.alloc(4096), 0, 4096, offset)).buffer);
    } finally {
      await handle.close();
    }
  };
  await page(0);
  const spans = own.path('cache', 'spans');
  const layer = `${spans}/${readdirSync(spans).find((name) => !name.endsWith('.table'))!}`;
  const at = readFileSync(layer).indexOf(LARGE.subarray(0, 4096)) + AT;
  const fd = openSync(layer, 'r+');
  writeSync(fd, Buffer.from([LARGE[AT]! ^ 1]), 0, 1, at);
  closeSync(fd);
  const right = sha256Of(LARGE.subarray(AT, AT + 4096));
  expect(await page(AT)).not.toBe(right); // the check is worth something only if this is so
  expect((await own.json<{ damaged: number }>('cache', 'verify')).damaged).toBe(1);
  expect(await page(AT)).toBe(right);
  await verify();
});

test('when every process of clip is killed, bytes that the kernel does not have are errors and never zeros', async () => {
  await own.ok('mount', '--clip', archive, '--at', place, '--plane', 'kernel', '--no-readahead', '--no-prefetch');
  const small = await readFile(`${place}/data/small`);
  await killEverything();
  // What is cached is still there; the rest is not made up.
  expect(sha256Of(await readFile(`${place}/data/small`))).toBe(sha256Of(small));
  await expect(readFile(`${place}/large`)).rejects.toThrow(/EIO/);
  expect(readdirSync(`${place}/data`).sort()).toEqual(['small', 'zeros']);
  await own.ok('umount', place);
  expect(own.mounts()).toEqual([]);
});
