import { strictEqual } from 'node:assert';
import type { ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, constants, readFileSync, statfsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import type { Health, MountInfoReply } from '../../src/wire/index.js';
import { Clipctl } from './clipctl.js';
import { layerLike } from './gzip.js';
import { writeImage } from './images.js';
import { dir, file, symlink, tar } from './tar.js';

/** An image with one large file among small ones, indexed. */
export interface IndexedImage {
  readonly archive: string;
  /** Path in the image → sha256 of its content. */
  readonly hashes: ReadonlyMap<string, string>;
  remove(): void;
}

export function sha256Of(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** `seed` makes images differ. */
export async function indexedImage(clip: Clipctl, name: string, seed = 1, largeBytes = 6e6): Promise<IndexedImage> {
  const files = new Map<string, Uint8Array>([
    ['etc/name', Buffer.from(`image ${seed}\n`)],
    ['large', layerLike(largeBytes, seed)],
  ]);
  for (let i = 0; i < 20; i++) files.set(`data/file-${i}`, layerLike(10_000 + 1000 * i, seed * 100 + i));
  const layer = tar(
    dir('etc'),
    dir('data'),
    symlink('link', 'etc/name'),
    ...[...files].map(([path, content]) => file(path, content)),
  );
  const image = writeImage([layer], { config: { Cmd: ['/bin/sh'] } });
  chmodSync(image.layout.directory, 0o755); // other users mount it, too
  const archive = clip.path(`${name}.clip`);
  await clip.ok('index', '--image', image.reference, '--out', archive, '--checkpoint', '1');
  const hashes = new Map([...files].map(([path, content]) => [path, sha256Of(content)]));
  return { archive, hashes, remove: () => image.remove() };
}

export interface TwoImages {
  readonly clip: Clipctl;
  readonly image: IndexedImage;
  readonly other: IndexedImage;
  /** Ends the clipd and removes everything. */
  close(): Promise<void>;
}

/** A clipd to be, and two images that differ. */
export async function twoImages(largeBytes?: number): Promise<TwoImages> {
  const clip = await Clipctl.create();
  const image = await indexedImage(clip, 'one', 1, largeBytes);
  const other = await indexedImage(clip, 'two', 2, largeBytes);
  const close = async (): Promise<void> => {
    image.remove();
    other.remove();
    await clip.close();
  };
  return { clip, image, other, close };
}

/** Kills what a test has left running, and unmounts what it has left mounted. */
export async function tidy(clip: Clipctl, children: ChildProcess[]): Promise<void> {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  for (const { mountPoint } of await listed(clip)) await clip.run(['umount', '--lazy', mountPoint]);
}

/** Reads every file of an image at a place. */
export function verify(place: string, of: IndexedImage): void {
  for (const [path, hash] of of.hashes) strictEqual(sha256Of(readFileSync(`${place}/${path}`)), hash, path);
}

/** A file's bytes as the server has them now: O_DIRECT passes by the kernel's page cache, which may know them from before. */
export async function readDirect(path: string): Promise<Buffer> {
  return await readFile(path, { flag: constants.O_RDONLY | constants.O_DIRECT });
}

export async function health(clip: Clipctl): Promise<Health> {
  return await clip.json<Health>('health');
}

export async function listed(clip: Clipctl): Promise<MountInfoReply[]> {
  return await clip.json<MountInfoReply[]>('ps');
}

/** Waits until `check` holds; fails after `milliseconds`. */
export async function eventually(check: () => boolean | Promise<boolean>, milliseconds = 10_000): Promise<void> {
  const end = performance.now() + milliseconds;
  while (!(await check())) {
    if (performance.now() > end) throw new Error(`not within ${milliseconds} ms: ${check.toString()}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Whether a process is there and not a zombie. */
export function alive(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

/** The file system type and the source of the topmost mount at a place. */
export function mountedAs(place: string): Readonly<Record<'type' | 'source' | 'options', string>> | null {
  const line = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .findLast((one) => one.split(' ')[4] === place);
  if (line === undefined) return null;
  const [type, source, options] = line.split(' - ')[1]!.split(' ') as [string, string, string];
  return { type, source, options };
}

/**
 * Whether a mount's server has ended. (The kernel may go on listing a directory from its cache, and what it serves itself it lists for
 * ever: there the connection is asked.)
 */
export function isDead(place: string): boolean {
  const mounted = mountedAs(place);
  try {
    statfsSync(mounted?.type === 'erofs' ? mounted.source.replace(/\.tree$/, '') : place);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOTCONN';
  }
}
