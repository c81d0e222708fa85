import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readArchiveImage } from '../../src/check/index.js';
import {
  AbortError,
  ClipdClient,
  ClipError,
  convertArchive,
  createAndUploadArchive,
  createAndUploadOCIArchive,
  createArchive,
  createFromOCIImage,
  extractArchive,
  fetchArchive,
  inspectArchive,
  listFiles,
  type MountEvents,
  mount,
  OverlayMounter,
  optimizeArchive,
  readFile,
  runContainer,
  storeS3,
  verifyArchive,
} from '../../src/index.js';
import { Clipctl } from '../support/clipctl.js';
import { fixture } from '../support/legacy.js';
import { makeRichImage, type RichImage } from './rich-image.js';

/** The library against clipctl and the mount: the same image seen in three ways. */
let image: RichImage;
let clip: Clipctl;
let archive: string;
const S3 = { credentials: { accessKeyId: 'a', secretAccessKey: 'b' } } as const;
/** Of version 1. */
let packed: string;

beforeAll(async () => {
  image = makeRichImage();
  clip = await Clipctl.create();
  archive = clip.path('a.clip');
  await createFromOCIImage({ imageRef: image.reference, outputPath: archive, hashes: true });
  packed = clip.path('packed.clip');
  await createArchive({ inputPath: '/etc/default', outputPath: packed, skipUnsupported: true });
});
afterAll(async () => {
  await clip?.close();
  image?.remove();
});

const json = async (...args: string[]): Promise<unknown> => JSON.parse((await clip.ok(...args)).stdout);

describe('archives without mounting', () => {
  it('inspectArchive says what clipctl inspect says', async () => {
    const info = inspectArchive(archive);
    expect(JSON.parse(JSON.stringify(info))).toEqual(await json('inspect', '--clip', archive, '--json'));
    expect(info.layers.length).toBeGreaterThan(1);
  });

  it('listFiles lists what clipctl ls -R lists', async () => {
    const listed = [...listFiles(archive, { recursive: true })];
    const entries = (await json('ls', '-R', '--clip', archive, '--json')) as Record<string, unknown>[];
    const ofCli = entries.map((entry) => [
      entry.path ?? Buffer.from(entry.pathBase64 as string, 'base64').toString('utf8'),
      entry.type,
      entry.mode,
      entry.size,
      entry.nid,
      entry.target,
    ]);
    const ofLibrary = listed.map(({ path, type, mode, size, nid, target }) => {
      return [path, type, `0${mode.toString(8)}`, size, nid, target];
    });
    expect(ofLibrary).toEqual(ofCli);
    expect(listed.length).toBeGreaterThan(20);
    const [one] = listFiles(archive, { path: 'etc/os-release' });
    expect(one).toMatchObject({ path: '/etc/os-release', type: 'file' });
  });

  it('readFile reads what a mount shows, parts as well', async () => {
    const place = await clip.place('compared');
    await using mounted = await mount({ archivePath: archive, mountPoint: place });
    expect(mounted.mountPoint).toBe(place);
    let files = 0;
    for (const { path: name, pathBytes, type, size } of listFiles(archive, { recursive: true })) {
      if (type !== 'file' || pathBytes !== undefined || (size > 100_000 && ++files > 2)) continue;
      const expected = readFileSync(path.join(place, name));
      expect(Buffer.from(await readFile(archive, name)).equals(expected), name).toBe(true);
      if (size < 10) continue;
      const offset = Math.floor(size / 3);
      const part = Buffer.from(await readFile(archive, name, { offset, length: 5 }));
      expect(part.equals(expected.subarray(offset, offset + 5)), name).toBe(true);
    }
    expect(await readFile(archive, '/etc/os-release', { offset: 1e9 })).toHaveLength(0);
  });

  it('verifyArchive finds all as indexed', async () => {
    const seen: number[] = [];
    const result = await verifyArchive(archive, { onProgress: ({ done }) => seen.push(done) });
    expect(result).toMatchObject({ problems: [], absent: 0 });
    expect(result.files).toBeGreaterThan(5);
    expect(seen.length).toBeGreaterThan(0);
  });

  it('optimizeArchive puts the reads of a run first', async () => {
    const place = await clip.place('recorded');
    const mounted = await mount({ archivePath: archive, mountPoint: place });
    readFileSync(path.join(place, 'data/random.bin'));
    const { profile } = await mounted.profile();
    await mounted.unmount();
    const outputPath = clip.path('optimized.clip');
    const result = await optimizeArchive({ archivePath: archive, profile, outputPath });
    expect(result.spans).toBeGreaterThan(0);
    expect(inspectArchive(outputPath).profile).toEqual({ source: 'recorded', spans: result.spans });
    const other = { ...profile, layers: profile.layers.map(() => `sha256:${'0'.repeat(64)}`) };
    await expect(optimizeArchive({ archivePath: archive, profile: other, outputPath })).rejects.toMatchObject({
      code: 'CONFLICT',
    });
  });

  it('errors name the thing, unknown options too', async () => {
    await expect(readFile(archive, '/nowhere')).rejects.toMatchObject({
      code: 'NOT_FOUND',
      message: `no /nowhere in ${archive}`,
    });
    await expect(readFile(archive, '/etc')).rejects.toMatchObject({
      message: `/etc in ${archive} is a directory, not a file`,
    });
    await expect(readFile(archive, '/x', { lenght: 5 } as never)).rejects.toMatchObject({
      message: 'readFile: options.lenght is not an option',
    });
    await expect(
      convertArchive({ archivePath: '/nowhere', outputPath: clip.path('o.clip'), outputpath: 'x' } as never),
    ).rejects.toMatchObject({ message: 'convertArchive: options.outputpath is not an option' });
    expect(() => [...listFiles(archive, { deep: true } as never)]).toThrow('listFiles: options.deep is not an option');
    await expect(verifyArchive(archive, { from: 'cache' })).rejects.toThrow('options.cachePath is missing');
    expect(() => inspectArchive('/nonexistent')).toThrow(ClipError);
    await expect(runContainer({ archivePath: archive, ars: ['/bin/true'] } as never)).rejects.toMatchObject({
      code: 'USAGE',
      message: 'runContainer: options.ars is not an option',
    });
    expect(() => new OverlayMounter({ archive } as never)).toThrow('OverlayMounter: options.archive is not an option');
  });
});

describe('signals', () => {
  const reason = new Error('enough');
  const signal = AbortSignal.abort(reason);
  const calls: [string, () => Promise<unknown>][] = [
    [
      'createFromOCIImage',
      () => createFromOCIImage({ imageRef: image.reference, outputPath: clip.path('b.clip'), signal }),
    ],
    ['createArchive', () => createArchive({ inputPath: '/etc/default', outputPath: clip.path('o.clip'), signal })],
    ['extractArchive', () => extractArchive({ archivePath: packed, outputPath: clip.path('extracted'), signal })],
    [
      'storeS3',
      () =>
        storeS3({
          archivePath: packed,
          outputPath: clip.path('o.rclip'),
          storageInfo: { bucket: 'b', endpoint: 'http://127.0.0.1:1' },
          credentials: { accessKeyId: 'a', secretAccessKey: 'b' },
          signal,
        }),
    ],
    ['runContainer', () => runContainer({ archivePath: archive, args: ['/bin/true'], signal })],
    ['OverlayMounter.mount', () => new OverlayMounter({ image: image.reference }).mount({ signal })],
    [
      'optimizeArchive',
      () => {
        const { manifestDigest, layers } = readArchiveImage(archive);
        const profile = {
          format: 'clip profile 1',
          manifestDigest,
          layers: layers.map(({ digest }) => digest),
        } as const;
        return optimizeArchive({
          archivePath: archive,
          profile: { ...profile, ranges: [{ layer: 0, start: 0, end: 512 }] },
          outputPath: clip.path('o.clip'),
          signal,
        });
      },
    ],
    [
      'convertArchive',
      () => convertArchive({ archivePath: fixture('oci-2025-11'), outputPath: clip.path('o.clip'), signal }),
    ],
    [
      'fetchArchive',
      () => fetchArchive('s3://b/k?endpoint=http://127.0.0.1:1', { ...S3, cachePath: clip.path('c'), signal }),
    ],
    [
      'createAndUploadArchive',
      () =>
        createAndUploadArchive(
          { inputPath: '/etc/default', outputPath: clip.path('o.rclip'), signal },
          { bucket: 'b', endpoint: 'http://127.0.0.1:1' },
          S3.credentials,
        ),
    ],
    [
      'createAndUploadOCIArchive',
      () =>
        createAndUploadOCIArchive(
          { imageRef: image.reference, outputPath: clip.path('o.clip'), signal },
          { bucket: 'b', endpoint: 'http://127.0.0.1:1' },
          S3.credentials,
        ),
    ],
    [
      'prefetch of a mount',
      async () => {
        await using mounted = await mount({ archivePath: archive, mountPoint: await clip.place('ahead') });
        await mounted.prefetch({ signal });
      },
    ],
    ['readFile', () => readFile(archive, '/etc/os-release', { signal })],
    ['verifyArchive', () => verifyArchive(archive, { signal })],
    ['mount', async () => mount({ archivePath: archive, mountPoint: await clip.place('never'), signal })],
  ];
  it.each(calls)('%s rejects with an AbortError whose cause is the reason', async (_, call) => {
    const error: unknown = await call().then(
      () => null,
      (rejected: unknown) => rejected,
    );
    expect(error).toBeInstanceOf(AbortError);
    expect(error).toMatchObject({ name: 'AbortError', code: 'ABORTED', cause: reason });
  });

  it('an overlay that is called off at any moment leaves nothing, and can be mounted after that', async () => {
    const own = { root: clip.path('overlay-root'), cacheDir: clip.path('overlay-cache') };
    const mounter = new OverlayMounter({ archivePath: archive, id: 'called-off', ...own });
    for (const delay of [0, 40, 120, 250, 400]) {
      const control = new AbortController();
      const mounting = mounter.mount({ signal: control.signal });
      const timer = setTimeout(() => control.abort(reason), delay);
      const error: unknown = await mounting.then(
        () => null,
        (rejected: unknown) => rejected,
      );
      clearTimeout(timer);
      // It may have been quicker.
      if (error === null) await mounter.cleanup();
      else expect([delay, error]).toEqual([delay, expect.objectContaining({ name: 'AbortError', cause: reason })]);
      expect([delay, readFileSync('/proc/self/mountinfo', 'utf8').includes(`${own.root}/called-off`)]).toEqual([
        delay,
        false,
      ]);
      expect(existsSync(path.join(own.root, 'called-off'))).toBe(false);
    }
    const { rootfs } = await mounter.mount();
    expect(readFileSync(path.join(rootfs, 'etc/os-release'), 'utf8')).toContain('ID=clip-test');
    await mounter.cleanup();
    await new ClipdClient(own.root).stop(false);
  });

  it('a mount that is called off while it starts leaves nothing mounted', async () => {
    const place = await clip.place('called-off');
    const control = new AbortController();
    const mounting = mount({ archivePath: archive, mountPoint: place, signal: control.signal });
    setTimeout(() => control.abort(reason), 20);
    await expect(mounting).rejects.toBeInstanceOf(AbortError);
    await expect
      .poll(() => readFileSync('/proc/self/mountinfo', 'utf8').includes(place), { timeout: 20_000 })
      .toBe(false);
  });
});

describe('mount()', () => {
  it('tells of servers that end, and of its own end', async () => {
    const place = await clip.place('events');
    const mounted = await mount({ archivePath: archive, mountPoint: place });
    let unmounted = 0;
    mounted.on('unmounted', () => unmounted++);
    const first = new Promise<MountEvents['restarted'][0]>((resolve) => void mounted.once('restarted', resolve));
    const { health } = await mounted.stats();
    process.kill(health.serverPid, 'SIGKILL');
    expect(await first).toEqual({ restarts: health.restarts + 1 });
    expect(readFileSync(path.join(place, 'etc/os-release'), 'utf8')).toContain('ID=clip-test');
    await mounted[Symbol.asyncDispose]();
    expect(unmounted).toBe(1);
    await mounted[Symbol.asyncDispose]();
    await expect(mounted.stats()).rejects.toMatchObject({ code: 'USAGE' });
  });

  it('tells when its cache cannot be written', async () => {
    const cachePath = await clip.place('small-cache');
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=512k,mode=0700', 'tmpfs', cachePath]);
    try {
      const place = await clip.place('degraded');
      await using mounted = await mount({ archivePath: archive, mountPoint: place, cachePath, cacheSize: 1e9 });
      const degraded = new Promise<MountEvents['degraded'][0]>((resolve) => void mounted.once('degraded', resolve));
      expect(readFileSync(path.join(place, 'data/random.bin'))).toHaveLength(5_000_000);
      expect((await degraded).reason).toMatch(/refuses writes/);
    } finally {
      execFileSync('umount', ['-l', cachePath]);
    }
  });
});
