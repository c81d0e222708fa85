import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ErofsImage, type ErofsOptions, ErofsReader, writeErofs } from '../../src/erofs/index.js';
import { flags, mountErofs, mountFileSystem, setXattr, sys, unmount } from '../../src/linux/index.js';
import { EntryColumns, TarParser } from '../../src/tar/index.js';
import { TreeBuilder } from '../../src/tree/index.js';
import { type FileSnapshot, snapshotTree } from './compare.js';
import { writeImage } from './images.js';

/** The trees that each of our planes and each oracle makes of the same layers (uncompressed tars, base first). */

export type Snapshot = Map<string, FileSnapshot>;

function temporary<T>(use: (directory: string) => T): T {
  const directory = mkdtempSync(join(tmpdir(), 'clip-oracle-'));
  try {
    return use(directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Tars to tree to EROFS. `chunk` is how many bytes the parser gets at a time. */
export function buildErofs(layers: readonly Uint8Array[], options: ErofsOptions & { chunk?: number } = {}): ErofsImage {
  const { chunk = Number.POSITIVE_INFINITY } = options;
  const builder = new TreeBuilder();
  layers.forEach((layer, i) => {
    const entries = new EntryColumns();
    const parser = new TarParser({ entries });
    for (let at = 0; at < layer.length; at += chunk)
      parser.push(layer.subarray(at, Math.min(layer.length, at + chunk)));
    parser.finish();
    builder.applyLayer(i, entries);
  });
  const devices = layers.map((layer, i) => ({ tag: `layer${i}`, blocks: Math.ceil(layer.length / 512) }));
  return writeErofs(builder.finish(), devices, options);
}

/**
 * Our image, mounted by the kernel with the layers as devices.
 * @param image a tree of these layers, whose devices may be more: those are empty
 */
export function withKernelMount<T>(
  layers: readonly Uint8Array[],
  use: (mountPoint: string) => T,
  image: Uint8Array = buildErofs(layers).image,
): T {
  return temporary((directory) => {
    const primary = join(directory, 'tree.erofs');
    writeFileSync(primary, image);
    const { deviceBytes } = new ErofsReader(image);
    const devices = deviceBytes.map((_, i) => {
      const device = join(directory, `layer${i}`);
      writeFileSync(device, layers[i] ?? '');
      return device;
    });
    const mountPoint = join(directory, 'mnt');
    mkdirSync(mountPoint);
    mountErofs(primary, devices, mountPoint, { suid: true, dev: true });
    try {
      return use(mountPoint);
    } finally {
      unmount(mountPoint);
    }
  });
}

export function kernelPlane(layers: readonly Uint8Array[]): Snapshot {
  return withKernelMount(layers, (mountPoint) => snapshotTree(mountPoint));
}

/** The tree that `umoci raw unpack` makes of the image. Throws with its message if it refuses. */
export function umociTree(layers: readonly Uint8Array[]): Snapshot {
  const image = writeImage(layers);
  try {
    return temporary((directory) => {
      const rootfs = join(directory, 'rootfs');
      const ran = spawnSync('umoci', ['raw', 'unpack', '--image', `${image.layout.directory}:latest`, rootfs], {
        encoding: 'utf8',
      });
      if (ran.status !== 0) throw new Error(`umoci: ${ran.stderr.trim()}`);
      return snapshotTree(rootfs);
    });
  } finally {
    image.remove();
  }
}

/** Turns the whiteouts of an extracted layer into overlayfs's: character devices 0:0, and an xattr on opaque directories. */
function convertWhiteouts(directory: string): void {
  const { atimeMs, mtimeMs } = statSync(directory);
  for (const child of readdirSync(directory, { withFileTypes: true })) {
    const path = join(directory, child.name);
    if (child.name === '.wh..wh..opq') {
      rmSync(path);
      setXattr(directory, 'trusted.overlay.opaque', Buffer.from('y'));
    } else if (child.name.startsWith('.wh.')) {
      rmSync(path, { recursive: true });
      const name = join(directory, child.name.slice(4));
      if (sys.mknod(name, 0o020000, 0) < 0) throw new Error(`mknod ${name}`);
    } else if (child.isDirectory()) convertWhiteouts(path);
  }
  utimesSync(directory, atimeMs / 1000, mtimeMs / 1000);
}

/** Each layer extracted on its own by GNU tar, whiteouts converted, stacked by overlayfs, as container runtimes do. */
export function overlayTree(layers: readonly Uint8Array[]): Snapshot {
  return temporary((directory) => {
    const lowers = layers.map((layer, i) => {
      const lower = join(directory, `lower${i}`);
      mkdirSync(lower);
      const options = [
        '-x',
        '-f',
        '-',
        '-C',
        lower,
        '-p',
        '--numeric-owner',
        '--xattrs',
        '--xattrs-include=*',
        '--same-owner',
      ];
      execFileSync('tar', options, { input: layer, stdio: ['pipe', 'ignore', 'pipe'] });
      convertWhiteouts(lower);
      return lower;
    });
    // overlayfs wants two lower directories when there is no upper one.
    lowers.unshift(join(directory, 'empty'));
    mkdirSync(lowers[0]!);
    const mountPoint = join(directory, 'mnt');
    mkdirSync(mountPoint);
    const lowerdir = [...layers.map((_, i) => lowers[i + 1]!)].reverse().concat(lowers[0]!).join(':');
    mountFileSystem({
      type: 'overlay',
      source: 'overlay',
      target: mountPoint,
      flags: flags.MS_RDONLY,
      data: `lowerdir=${lowerdir}`,
    });
    try {
      return snapshotTree(mountPoint);
    } finally {
      unmount(mountPoint);
    }
  });
}
