import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  lchownSync,
  mkdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { buildArchive } from '../../src/archive/index.js';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { ArchiveFile } from '../../src/check/index.js';
import { ClipdClient } from '../../src/client/index.js';
import { FEATURE_COMPAT_SB_CHECKSUM, SB, SUPER_OFFSET } from '../../src/erofs/format.js';
import { writeErofs } from '../../src/erofs/index.js';
import { formatPlatform, hostPlatform } from '../../src/oci/index.js';
import { ArchiveStore } from '../../src/store/index.js';
import { EntryColumns, TarParser } from '../../src/tar/index.js';
import { TreeBuilder } from '../../src/tree/index.js';
import { unpackArchive } from '../../src/unpack/index.js';
import { Clipctl } from '../support/clipctl.js';
import { HOSTILE, hostileDirectory } from '../support/hostile.js';
import { type IndexedImage, indexedImage } from '../support/mounted.js';
import { fifo, symlink, tar } from '../support/tar.js';

// What another user has put where root unpacks, looks for stored archives, or opens one.

let clip: Clipctl;
let image: IndexedImage;
let theirs: string;
let precious: string;

beforeAll(async () => {
  clip = await Clipctl.create();
  chmodSync(clip.directory, 0o755);
  image = await indexedImage(clip, 'image', 1, 1e5);
  theirs = hostileDirectory(clip.path('theirs'));
  precious = clip.path('precious');
  writeFileSync(precious, 'precious', { mode: 0o600 });
});
afterAll(async () => {
  image.remove();
  await clip.close();
});

const give = (path: string): void => lchownSync(path, HOSTILE.uid, HOSTILE.gid);

test('unpack writes its journal through no link', async () => {
  const at = join(theirs, 'linked');
  symlinkSync(precious, `${at}.clip-unpack`);
  give(`${at}.clip-unpack`);
  const ran = await clip.run(['unpack', '--clip', image.archive, at]);
  expect([ran.code, ran.stderr]).toEqual([
    EXIT_CODES.PERMISSION,
    expect.stringContaining(`${at}.clip-unpack is not a plain file`),
  ]);
  expect(readFileSync(precious, 'utf8')).toBe('precious');
});

test('unpack goes on with no journal and no directory that another user has made', async () => {
  const { identity } = await clip.json<{ identity: string }>('inspect', '--clip', image.archive);
  const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
  const stretches = Array.from({ length: 20 }, (_, i) => `0 0 ${i}`);
  for (const owner of ['root', 'hostile']) {
    const at = owner === 'root' ? join(theirs, 'of-root') : hostileDirectory(join(theirs, 'of-theirs'));
    if (owner === 'root') mkdirSync(at, { mode: 0o700 });
    const { dev, ino } = statSync(at);
    const header = JSON.stringify({ format: 'clip unpack 1', identity, boot, directory: `${dev}:${ino}` });
    writeFileSync(`${at}.clip-unpack`, [header, ...stretches, ''].join('\n'));
    give(`${at}.clip-unpack`);
    const ran = await clip.run(['unpack', '--clip', image.archive, at]);
    const words = owner === 'root' ? 'is not a plain file of this user' : `belongs to user ${HOSTILE.uid}`;
    expect([ran.code, ran.stderr]).toEqual([EXIT_CODES.PERMISSION, expect.stringContaining(words)]);
    expect(existsSync(join(at, 'etc'))).toBe(false);
  }
});

test('a tree that names a link twice changes nothing behind the link', async () => {
  const builder = new TreeBuilder();
  const entries = new EntryColumns();
  const parser = new TarParser({ entries });
  parser.push(tar(symlink('twice-a', precious), fifo('twice-b', { mode: 0o666 })));
  parser.finish();
  builder.applyLayer(0, entries);
  const honest = ArchiveFile.open(image.archive);
  const { archive } = honest;
  const tree = Buffer.from(writeErofs(builder.finish(), []).image);
  // Without its checksum.
  const compat = SUPER_OFFSET + SB.featureCompat;
  tree.writeUInt32LE((tree.readUInt32LE(compat) & ~FEATURE_COMPAT_SB_CHECKSUM) >>> 0, compat);
  tree[tree.indexOf('twice-b') + 'twice-'.length] = 'a'.charCodeAt(0);
  const { parts } = buildArchive({ image: { ...archive.image, layers: [] }, tree, layers: [] });
  honest.close();
  const path = clip.path('twice.clip');
  writeFileSync(path, Buffer.concat(parts));
  const forged = ArchiveFile.open(path);
  const source = { fetchInto: () => Promise.reject(new Error('nothing is to be fetched')) };
  await expect(unpackArchive({ archive: forged.archive, source, directory: clip.path('twice') })).rejects.toThrow(
    /twice-a.*out of order/,
  );
  forged.close();
  expect(statSync(precious).mode & 0o777).toBe(0o600);
});

test('archives that another user has stored are not used', async () => {
  const cacheDir = clip.path('their-cache');
  const manifestDigest = `sha256:${'a'.repeat(64)}`;
  const canonical = 'docker.io/library/alpine:latest';
  const store = new ArchiveStore(cacheDir);
  store.remember({ canonical, platform: formatPlatform(hostPlatform()), manifestDigest, resolvedAt: Date.now() });
  copyFileSync(image.archive, join(cacheDir, 'archives', `sha256-${'a'.repeat(64)}.clip`));
  execFileSync('chown', ['-R', `${HOSTILE.uid}:${HOSTILE.gid}`, cacheDir]);
  for (const args of [
    ['unpack', '--image', 'alpine', clip.path('alpine')],
    ['inspect', '--image', 'alpine', '--pull', 'never'],
    ['archives', 'ls'],
    ['archives', 'rm', manifestDigest],
    ['archives', 'prune'],
  ]) {
    const ran = await clip.run([...args, '--cache-dir', cacheDir]);
    expect([args.join(' '), ran.code, ran.stderr]).toEqual([
      args.join(' '),
      EXIT_CODES.PERMISSION,
      expect.stringContaining(`${cacheDir} belongs to user ${HOSTILE.uid}`),
    ]);
  }
  chownSync(cacheDir, 0, 0);
  const within = await clip.run(['inspect', '--image', 'alpine', '--cache-dir', cacheDir]);
  expect([within.code, within.stderr]).toEqual([
    EXIT_CODES.PERMISSION,
    expect.stringContaining(`${cacheDir}/archives belongs to user`),
  ]);
  expect(existsSync(clip.path('alpine'))).toBe(false);
});

test('a FIFO in the place of an archive keeps neither client nor clipd waiting', async () => {
  const path = join(theirs, 'fifo.clip');
  execFileSync('mkfifo', [path]);
  give(path);
  await clip.ok('mount', '--clip', image.archive, '--at', await clip.place('first'));
  for (const args of [
    ['mount', '--clip', path, '--at', await clip.place('second')],
    ['inspect', '--clip', path],
  ]) {
    const ran = await clip.run(args);
    expect([args[0], ran.code, ran.stderr]).toEqual([
      args[0],
      EXIT_CODES.BAD_FORMAT,
      expect.stringContaining(`${path} is not a file`),
    ]);
  }
  // It was a file when the client looked.
  const client = new ClipdClient(clip.path('root'));
  const { mountNamespace } = await client.health();
  const mountPoint = await clip.place('third');
  await expect(client.mount({ archivePath: path, mountPoint, mountNamespace, requestId: 'fifo' })).rejects.toThrow(
    `${path} is not a file`,
  );
  await client.health();
  await clip.stop();
});

test.each(['upper', 'mount-base', 'rootfs-base'])(
  'a --%s that another user could swap for a link is not used',
  async (flag) => {
    const home = hostileDirectory(join(theirs, flag));
    const own = join(home, 'of-root');
    mkdirSync(own);
    const open = clip.path(`open-${flag}`);
    mkdirSync(join(open, 'below'), { recursive: true });
    chmodSync(open, 0o777);
    for (const [path, named] of [
      [home, theirs],
      [own, theirs],
      [join(open, 'below'), open],
    ] as const) {
      const ran = await clip.run(['mount', '--clip', image.archive, '--cid', `of-${flag}`, `--${flag}`, path]);
      expect([ran.code, ran.stderr]).toEqual([
        EXIT_CODES.PERMISSION,
        expect.stringContaining(`in the place of ${path}: ${named} is theirs`),
      ]);
      expect(existsSync(clip.path('root', `of-${flag}`))).toBe(false);
    }
    // A sticky directory keeps names as they are, and a link of root's is followed.
    chmodSync(open, 0o1777);
    const link = clip.path(`link-${flag}`);
    symlinkSync(join(open, 'below'), link);
    await clip.ok('mount', '--clip', image.archive, '--cid', `of-${flag}`, `--${flag}`, link);
    await clip.ok('umount', '--cid', `of-${flag}`);
  },
);

test('extract goes into no directory of another user', async () => {
  const from = clip.path('from');
  mkdirSync(from);
  writeFileSync(join(from, 'file'), 'content');
  await clip.ok('create', from, '--out', clip.path('v1.clip'));
  const at = hostileDirectory(join(theirs, 'extracted'));
  const ran = await clip.run(['extract', '--clip', clip.path('v1.clip'), '--out', at]);
  expect([ran.code, ran.stderr]).toEqual([
    EXIT_CODES.PERMISSION,
    expect.stringContaining(`${at} belongs to user ${HOSTILE.uid}`),
  ]);
  expect(existsSync(join(at, 'file'))).toBe(false);
});
