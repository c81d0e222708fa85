import { spawn } from 'node:child_process';
import { copyFileSync, existsSync, readdirSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  ClipError,
  type ContentCache,
  type MountedArchive,
  mountArchive,
  type RecentWarning,
} from '../../src/index.js';
import { Clipctl, runProgram } from '../support/clipctl.js';
import { eventually, type IndexedImage, indexedImage, sha256Of } from '../support/mounted.js';

// The library's way to mount: a private engine in child processes, which ends with its owner.

let clip: Clipctl;
let image: IndexedImage;
let other: IndexedImage;

beforeAll(async () => {
  clip = await Clipctl.create();
  // Engines of other tests do not count.
  process.env.XDG_RUNTIME_DIR = await clip.place('run');
  image = await indexedImage(clip, 'one', 1);
  other = await indexedImage(clip, 'two', 2);
});
afterAll(async () => {
  image.remove();
  other.remove();
  await clip.close();
});

const privateRoots = (): string[] => readdirSync(clip.path('run')).filter((name) => name.startsWith('clip-lib-'));

test('start, synchronous reads in this very process, stats, unmount', async () => {
  const before = privateRoots();
  const at = await clip.place('a');
  const mount = mountArchive({ archivePath: image.archive, mountPoint: at, readahead: false });
  await mount.start();
  // Would deadlock if the engine ran here.
  for (const [path, hash] of image.hashes) expect(sha256Of(readFileSync(`${at}/${path}`))).toBe(hash);
  expect((await mount.stats()).counters.demandBytes).toBeGreaterThan(0);
  await mount.unmount();
  await mount.closed;
  expect(readdirSync(at)).toEqual([]);
  expect(privateRoots()).toEqual(before);
});

test('two mounts share an engine; a cache directory of one’s own outlives the mount', async () => {
  const cachePath = clip.path('own-cache');
  const [a, b] = [await clip.place('b'), await clip.place('c')];
  const first = mountArchive({ archivePath: image.archive, mountPoint: a, cachePath });
  const second = mountArchive({ archivePath: other.archive, mountPoint: b, cachePath });
  await Promise.all([first.start(), second.start()]);
  expect((await first.stats()).health.keeperPid).toBe((await second.stats()).health.keeperPid);
  expect(readFileSync(`${a}/etc/name`, 'utf8')).toBe('image 1\n');
  await first.unmount();
  expect(readFileSync(`${b}/etc/name`, 'utf8')).toBe('image 2\n');
  await second.unmount();
  expect(existsSync(cachePath)).toBe(true);
  const again = mountArchive({ archivePath: image.archive, mountPoint: a, cachePath });
  await again.start();
  expect(readFileSync(`${a}/etc/name`, 'utf8')).toBe('image 1\n');
  expect((await again.stats()).counters.demandBytes).toBe(0);
  await again.unmount();
});

test('an umount by another program closes it', async () => {
  const at = await clip.place('d');
  const mount = mountArchive({ archivePath: image.archive, mountPoint: at });
  await mount.start();
  expect((await runProgram('umount', [at])).code).toBe(0);
  await mount.closed;
});

test('errors are ClipErrors that name the thing; nothing stays', async () => {
  const before = privateRoots();
  const at = await clip.place('e');
  const missing = mountArchive({ archivePath: '/nonexistent.clip', mountPoint: at });
  await expect(missing.start()).rejects.toThrow(ClipError);
  await expect(missing.start()).rejects.toThrow('archive /nonexistent.clip does not exist');
  await expect(mountArchive({ archivePath: image.archive, mountPoint: '/nonexistent' }).start()).rejects.toThrow(
    'mount point /nonexistent does not exist',
  );
  await expect(missing.unmount()).rejects.toThrow(ClipError);
  expect(privateRoots()).toEqual(before);
});

test('when the caller is killed, its mounts go', async () => {
  const at = await clip.place('f');
  const index = new URL('../../src/index.js', import.meta.url).href;
  const script = `const { mountArchive } = await import(${JSON.stringify(index)});
    await mountArchive({ archivePath: ${JSON.stringify(image.archive)}, mountPoint: ${JSON.stringify(at)} }).start();
    console.log('mounted');`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await new Promise((resolve) => child.stdout.once('data', resolve));
  expect(readFileSync(`${at}/etc/name`, 'utf8')).toBe('image 1\n');
  const before = privateRoots().length;
  child.kill('SIGKILL');
  await eventually(() => readdirSync(at).length === 0);
  await eventually(() => privateRoots().length === before - 1);
});

/** A content cache of the caller's own. */
function ownCache(): ContentCache & { readonly stored: Map<string, Uint8Array>; spans: Set<string>; gets: number } {
  const stored = new Map<string, Uint8Array>();
  const spans = new Set<string>();
  return {
    stored,
    spans,
    gets: 0,
    async getContent(hash, offset, length) {
      this.gets++;
      return stored.get(hash)?.subarray(offset, offset + length) ?? null;
    },
    async storeContent(chunks, hash, { routingKey }) {
      const parts: Uint8Array[] = [];
      for await (const chunk of chunks) parts.push(chunk);
      stored.set(hash, Buffer.concat(parts));
      if (!routingKey.startsWith('profile:')) spans.add(hash);
      return hash;
    },
  };
}

test('contentCache: an object of the caller’s is asked before the registry, and filled behind it', async () => {
  const contentCache = ownCache();
  const mountWith = async (name: string): Promise<MountedArchive & { at: string }> => {
    const at = await clip.place(name);
    const options = { archivePath: image.archive, mountPoint: at, contentCache, cachePath: clip.path(`${name}-cache`) };
    const mount = mountArchive({ ...options, readahead: false });
    await mount.start();
    return { ...mount, at };
  };
  const readAll = async (at: string): Promise<void> => {
    for (const [path, hash] of image.hashes) expect(sha256Of(await readFile(`${at}/${path}`)), path).toBe(hash);
  };
  const first = await mountWith('content-1');
  await readAll(first.at);
  await eventually(async () => (await first.stats()).counters.contentQueueBytes === 0);
  await first.unmount();
  expect(contentCache.spans.size).toBeGreaterThan(3);
  // Another machine, as it were: an empty cache of its own.
  const second = await mountWith('content-2');
  await readAll(second.at);
  expect((await second.stats()).counters).toMatchObject({ demandBytes: 0, contentHits: contentCache.spans.size });
  await second.unmount();
  // A synchronous reader keeps this process from answering, and is served all the same.
  const third = await mountWith('content-3');
  for (const [path, hash] of image.hashes) expect(sha256Of(readFileSync(`${third.at}/${path}`)), path).toBe(hash);
  expect((await third.stats()).counters.contentTimeouts).toBeGreaterThan(0);
  await third.unmount();
  const wrong = { getContent: async () => null } as unknown as ContentCache;
  const refused = mountArchive({ archivePath: image.archive, mountPoint: third.at, contentCache: wrong });
  await expect(refused.start()).rejects.toMatchObject({ code: 'USAGE', message: 'contentCache has no storeContent()' });
});

test('start() after unmount() mounts again, and a start() that failed can be repeated', async () => {
  const at = await clip.place('again');
  const archivePath = clip.path('later.clip');
  const mount = mountArchive({ archivePath, mountPoint: at });
  await expect(mount.start()).rejects.toMatchObject({ code: 'NOT_FOUND' });
  copyFileSync(image.archive, archivePath);
  for (let i = 0; i < 3; i++) {
    await mount.start();
    expect(readFileSync(`${at}/etc/name`, 'utf8')).toBe('image 1\n');
    const { closed } = mount;
    await mount.unmount();
    expect(await closed).toMatchObject({ engineEnded: false });
    expect(readdirSync(at)).toEqual([]);
  }
});

test('the reason of an EIO reaches onWarning, stats() and closed', async () => {
  const at = await clip.place('reasons');
  const gone = await indexedImage(clip, 'gone', 9);
  const seen: RecentWarning[] = [];
  const mount = mountArchive({
    archivePath: gone.archive,
    mountPoint: at,
    readTimeout: 1,
    prefetch: false,
    onWarning: (warning) => seen.push(warning),
  });
  await mount.start();
  gone.remove(); // its layers
  await expect(readFile(`${at}/data/file-3`)).rejects.toThrow(/^EIO: i.o error, read/);
  const isReason = ({ level, fields, message }: RecentWarning): boolean =>
    level !== 'warn' && /no such|ENOENT|does not exist|cannot/i.test(JSON.stringify([fields, message]));
  await eventually(() => seen.some(isReason));
  expect((await mount.stats()).warnings.some(isReason)).toBe(true);
  const { closed } = mount;
  await mount.unmount({ mode: 'lazy' });
  expect((await closed).warnings.some(isReason)).toBe(true);
});
