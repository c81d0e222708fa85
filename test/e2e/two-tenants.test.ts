import {
  chmodSync,
  chownSync,
  copyFileSync,
  mkdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { ArchiveContents } from '../../src/archive/index.js';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { openArtifacts } from '../../src/oci/index.js';
import { Clipctl, PROGRAM, type Ran, runProgram } from '../support/clipctl.js';
import { FORGED_RULE, type Forgery, forgeries, layerToForge, RULES, readContents, sealed } from '../support/forged.js';
import { HOSTILE, hostileDirectory, runHostile } from '../support/hostile.js';
import { compressLayer, type TestImage, writeImage } from '../support/images.js';
import { eventually, health, listed, sha256Of } from '../support/mounted.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';
import { file, tar } from '../support/tar.js';

// Root's clipd serves two tenants from one cache. Their images share a layer, and one of them lies about it in every way that a forged
// archive can. Another user of the machine reads the mounts, and tries to disturb, meanwhile. All by clipctl, in processes.

let clip: Clipctl;
let registry: TestRegistry;
let shared: Uint8Array;
const images: TestImage[] = [];
let theirs: string;
let lies: Forgery[];
let lyingContents: ArchiveContents;
/** A checkout below a closed home directory is out of the hostile user's reach. */
let reachable = true;

const expected = new Map<string, string>();
const at = (tenant: string): string => `${registry.host}/${tenant}/app:1`;

beforeAll(async () => {
  clip = await Clipctl.create();
  chmodSync(clip.directory, 0o755);
  theirs = hostileDirectory(clip.path('theirs'));
  registry = await startRegistry();
  shared = layerToForge();
  for (const tenant of ['honest', 'lying']) {
    const image = writeImage([shared, tar(file('tenant', `${tenant}\n`))]);
    images.push(image);
    await registry.push(image.reference, `${tenant}/app:1`);
    await clip.ok('index', '--image', at(tenant), '--out', clip.path(`${tenant}.clip`));
  }
  lyingContents = readContents(clip.path('lying.clip'));
  lies = forgeries(lyingContents, Buffer.from(compressLayer(shared, 'gzip')));
  for (let dir = dirname(PROGRAM); dir !== '/'; dir = dirname(dir)) reachable &&= (statSync(dir).mode & 0o001) !== 0;
  // What the honest image is, by a clipd and a cache that have seen nothing else.
  const alone = await Clipctl.create();
  const place = await alone.place('m');
  await alone.ok('mount', '--clip', clip.path('honest.clip'), '--at', place);
  for (const path of ['before', 'etc/sudoers', 'bin/tool', 'large', 'tenant']) {
    expected.set(path, sha256Of(await readFile(join(place, path))));
  }
  await alone.close();
});
afterAll(async () => {
  for (const image of images) image.remove();
  await clip.close();
  await registry.stop();
});

async function asHostile(program: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Ran> {
  const ids = [`--reuid=${HOSTILE.uid}`, `--regid=${HOSTILE.gid}`, '--clear-groups'];
  return await runProgram('setpriv', [...ids, program, ...args], {
    cwd: '/',
    env: {
      PATH: process.env.PATH,
      HOME: theirs,
      XDG_RUNTIME_DIR: theirs,
      XDG_CACHE_HOME: join(theirs, 'cache'),
      ...env,
    },
  });
}

/** As root and as the hostile user see it: each a process that opens the files anew. */
async function expectHonest(place: string, because: string): Promise<void> {
  const sums = [...expected].map(([path, sum]) => `${sum}  ${join(place, path)}\n`).join('');
  const list = clip.path('sums');
  writeFileSync(list, sums, { mode: 0o644 });
  const root = await runProgram('sha256sum', ['--check', '--quiet', list]);
  expect([because, root.code, root.stdout]).toEqual([because, 0, '']);
  // They read what the modes of the image let them, and no more.
  const other = await asHostile('sha256sum', ['--check', '--quiet', list]);
  expect([because, other.stdout]).toEqual([because, `${join(place, 'etc/sudoers')}: FAILED open or read\n`]);
  expect(statSync(join(place, 'bin/tool')).mode & 0o7777).toBe(0o755);
}

/** Drops what the kernel and the cache have, so that the next reader gets what clip makes of it now. */
async function prune(): Promise<void> {
  await clip.ok('cache', 'prune', '--to', '0', '--mounted');
}

test('no lie of one tenant shows in the mount of the other, before, after and beside it', async () => {
  const honest = await clip.place('honest');
  const lying = await clip.place('lying');
  for (const { name, contents } of lies) {
    const archive = join(theirs, 'lie.clip');
    writeFileSync(archive, sealed(contents));
    // The lie comes first, and is read.
    const mounted = await clip.run(['mount', '--clip', archive, '--at', lying]);
    if (mounted.code === 0)
      await runProgram(
        'cat',
        ['before', 'etc/sudoers', 'bin/tool', 'large'].map((f) => join(lying, f)),
      );
    await clip.ok('mount', '--clip', clip.path('honest.clip'), '--at', honest);
    await expectHonest(honest, name);
    await prune();
    if (mounted.code === 0) {
      await runProgram(
        'cat',
        ['large', 'etc/sudoers'].map((f) => join(lying, f)),
      );
      await expectHonest(honest, `${name}, read again`);
      await clip.ok('umount', lying);
    }
    await clip.ok('umount', honest);
    await clip.ok('cache', 'prune', '--to', '0');
  }
  expect(await clip.json('cache', 'verify')).toMatchObject({ damaged: 0 });
}, 300_000);

test('an archive that the liar keeps beside their image in the registry is theirs alone', async () => {
  const lie = lies.find(({ name }) => name === 'a window and its digest')!;
  const artifacts = await openArtifacts(
    { registry: registry.host, repository: 'lying/app' },
    { credentials: null },
    { push: true },
  );
  await artifacts.push(sealed(lie.contents), lyingContents.image.manifestDigest);
  await artifacts.close();
  const [lying, honest] = [await clip.place('lying-image'), await clip.place('honest-image')];
  await clip.ok('mount', '--image', at('lying'), '--at', lying);
  expect(await readFile(join(lying, 'etc/sudoers'), 'utf8')).toContain(FORGED_RULE);
  await clip.ok('mount', '--image', at('honest'), '--at', honest);
  await expectHonest(honest, 'an archive in the registry');
  expect(await readFile(join(honest, 'etc/sudoers'), 'utf8')).toBe(RULES);
  for (const place of [lying, honest]) await clip.ok('umount', place);
});

test('an archive that its owner cuts and overwrites while it is mounted harms its own mount only', async () => {
  const archive = join(theirs, 'changing.clip');
  copyFileSync(clip.path('lying.clip'), archive);
  chownSync(archive, HOSTILE.uid, HOSTILE.gid);
  const [lying, honest] = [await clip.place('changing'), await clip.place('beside')];
  await clip.ok('mount', '--clip', archive, '--at', lying, '--no-readahead');
  await clip.ok('mount', '--clip', clip.path('honest.clip'), '--at', honest);
  const { serverPid } = await health(clip);
  const bytes = readFileSync(archive);
  const overwritten = bytes.map((byte, i) => (i > bytes.length / 3 ? byte ^ 0x55 : byte));
  writeFileSync(archive, overwritten);
  await runProgram('cat', [join(lying, 'large'), join(lying, 'before')]);
  await expectHonest(honest, 'overwritten');
  truncateSync(archive, 100);
  await prune();
  await runProgram('cat', [join(lying, 'large'), join(lying, 'etc/sudoers')]);
  await expectHonest(honest, 'cut');
  expect((await health(clip)).serverPid).toBe(serverPid);
  for (const place of [lying, honest]) await clip.ok('umount', place);
});

describe('the other user', () => {
  let honest: string;
  let precious: string;
  beforeAll(async () => {
    honest = await clip.place('in-use');
    await clip.ok('mount', '--clip', clip.path('honest.clip'), '--at', honest);
    precious = clip.path('precious');
    writeFileSync(precious, 'precious: hunter2\n', { mode: 0o600 });
  });

  test('gets nothing done with root’s clipd, cache and mounts', async (context) => {
    if (!reachable) return context.skip();
    const root = clip.path('root');
    const before = await listed(clip);
    const target = hostileDirectory(join(theirs, 'target'));
    for (const args of [
      ['ps'],
      ['stats'],
      ['umount', honest],
      ['umount', '--force', honest],
      ['mount', '--clip', clip.path('honest.clip'), '--at', target, '--suid', '--dev'],
      ['mount', '--clip', clip.path('honest.clip'), '--at', honest],
      ['prefetch', honest, 'large'],
      ['cache', 'prune', '--to', '0', '--mounted'],
      ['cache', 'verify'],
      ['archives', 'rm', lyingContents.image.manifestDigest],
      ['daemon', '--stop'],
      ['daemon'],
    ]) {
      const ran = await asHostile(process.execPath, [PROGRAM, ...args], {
        CLIP_ROOT: root,
        CLIP_CACHE_DIR: clip.path('cache'),
      });
      expect([args.join(' '), ran.code === 0]).toEqual([args.join(' '), false]);
    }
    expect(await listed(clip)).toEqual(before);
    await expectHonest(honest, 'after the attempts');
  });

  test('makes nothing in root’s directories, and reads nothing of the cache', async () => {
    const child = runHostile(
      `const fs = require('fs'), path = require('path'), done = [];
       const tryTo = (what, work) => { try { work(); done.push(what); } catch {} };
       for (const top of process.argv.slice(1)) {
         const walk = (dir) => {
           let names = [];
           try { names = fs.readdirSync(dir); } catch {}
           tryTo('make a file in ' + dir, () => fs.writeFileSync(path.join(dir, 'x'), ''));
           tryTo('make a link in ' + dir, () => fs.symlinkSync('/etc/passwd', path.join(dir, 'y')));
           for (const name of names) {
             const at = path.join(dir, name), stat = fs.lstatSync(at);
             if (stat.isDirectory()) { walk(at); continue; }
             if (!stat.isFile()) continue;
             tryTo('write ' + at, () => fs.closeSync(fs.openSync(at, 'r+')));
             tryTo('rename ' + at, () => fs.renameSync(at, at + '.old'));
             if (top.endsWith('cache')) tryTo('read ' + at, () => fs.readFileSync(at));
           }
         };
         walk(top);
       }
       console.log(JSON.stringify(done));`,
      [clip.path('root'), clip.path('cache')],
    );
    let text = '';
    for await (const chunk of child.stdout!) text += String(chunk);
    expect(JSON.parse(text)).toEqual([]);
  });

  test('learns nothing of a file of root’s from archives that root mounts for them', async () => {
    // A clipd of its own: another image's source must not give the bytes.
    const own = await Clipctl.create();
    const place = await own.place('named-by-them');
    const layout = hostileDirectory(join(theirs, 'layout'));
    mkdirSync(join(layout, 'blobs/sha256'), { recursive: true });
    for (const [name, text] of [
      ['oci-layout', '{"imageLayoutVersion":"1.0.0"}'],
      ['index.json', '{}'],
    ] as const) {
      writeFileSync(join(layout, name), text);
    }
    for (const { digest } of lyingContents.image.layers) {
      symlinkSync(precious, join(layout, 'blobs/sha256', digest.slice('sha256:'.length)));
    }
    const archive = join(theirs, 'asking.clip');
    for (const repository of [layout, `oci-archive:${precious}`, `docker-archive:${precious}`, dirname(precious)]) {
      writeFileSync(archive, sealed({ ...lyingContents, image: { ...lyingContents.image, registry: '', repository } }));
      const mounted = await own.run(['mount', '--clip', archive, '--at', place]);
      let said = mounted.stdout + mounted.stderr;
      if (mounted.code === 0) {
        await expect(readFile(join(place, 'large'))).rejects.toThrow('EIO');
        await own.ok('umount', place);
      }
      const verified = await own.run(['verify', '--clip', archive]);
      said += verified.stdout + verified.stderr;
      expect(said).not.toMatch(/hunter2|precious:/);
    }
    expect(readFileSync(own.path('root/clipd.log'), 'utf8')).not.toMatch(/hunter2|precious: /);
    await own.close();
  });

  test('does not stop root from unmounting what they hold open', async () => {
    const child = runHostile(
      `const fs = require('fs'); const fd = fs.openSync(process.argv[1], 'r');
       process.chdir(process.argv[2]); console.log('held'); setInterval(() => {}, 1000);`,
      [join(honest, 'large'), honest],
    );
    await new Promise((resolve) => child.stdout!.once('data', resolve));
    const busy = await clip.run(['umount', honest]);
    expect([busy.code, busy.stderr]).toEqual([EXIT_CODES.BUSY, expect.stringMatching(/busy|in use/)]);
    await clip.ok('umount', '--lazy', honest);
    expect(await listed(clip)).toEqual([]);
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await ended;
    await eventually(() => clip.mounts().length === 0);
  });
});
