import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { Clipctl, runProgram } from '../support/clipctl.js';
import { compareTrees, snapshotTree } from '../support/compare.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';
import { makeRichImage, type RichImage, UNICODE_FILE } from './rich-image.js';

/** Every command as a user types it, on one image in Debian's docker-registry; the tests go on from one another. */
describe('clipctl, end to end', () => {
  let image: RichImage;
  let registry: TestRegistry;
  let clipctl: Clipctl;
  let reference: string;
  let clip: string;

  beforeAll(async () => {
    image = makeRichImage();
    registry = await startRegistry();
    await registry.push(image.reference, 'team/rich:v1');
    reference = `${registry.host}/team/rich:v1`;
    clipctl = await Clipctl.create();
    mkdirSync(clipctl.path('место with spaces'));
    clip = clipctl.path('место with spaces', 'ri ch.clip');
  });

  afterAll(async () => {
    await clipctl?.close();
    await registry?.stop();
    image?.remove();
  });

  it('index: writes the archive, says so on stdout, and keeps quiet on stderr when that is no terminal', async () => {
    const ran = await clipctl.run(['index', '--image', reference, '--out', clip, '--checkpoint', '1']);
    expect(ran).toMatchObject({ code: 0, stderr: '' });
    expect(ran.stdout).toContain(clip);
    expect(ran.stdout).toContain(reference);
    expect(readdirSync(path.dirname(clip))).toEqual([path.basename(clip)]);
  });

  it('index --json: one document about the archive', async () => {
    const out = clipctl.path('json.clip');
    const result = await clipctl.json<Record<string, unknown>>('index', '--image', reference, '--out', out);
    expect(result).toMatchObject({ reference, outputPath: out, platform: { os: 'linux' } });
  });

  it('the same image gives the same archive, byte for byte', async () => {
    const again = clipctl.path('again.clip');
    await clipctl.ok('index', '--image', reference, '--out', again, '--checkpoint', '1');
    expect(readFileSync(again).equals(readFileSync(clip))).toBe(true);
  });

  it('index of an image layout lists the same files', async () => {
    const out = clipctl.path('layout.clip');
    await clipctl.ok('index', '--image', image.reference, '--out', out, '--checkpoint', '1');
    const [a, b] = await Promise.all([clip, out].map((file) => clipctl.ok('ls', '-lR', '--clip', file)));
    expect(a!.stdout).toBe(b!.stdout);
  });

  it('inspect: names the image, its platform and its layers', async () => {
    const text = (await clipctl.ok('inspect', '--clip', clip)).stdout;
    expect(text).toContain(reference);
    const value = await clipctl.json<{ layers: { kind: string; spans: number }[]; config: unknown }>(
      'inspect',
      '--clip',
      clip,
    );
    expect(value.layers.map((l) => l.kind)).toEqual(['gzip', 'gzip', 'gzip']);
    expect(value.layers[0]!.spans).toBeGreaterThan(4);
    expect(value.config).toMatchObject({ Entrypoint: ['/bin/sh', '-c'], WorkingDir: '/data' });
  });

  it('ls: lists without mounting, names as they are when piped', async () => {
    expect((await clipctl.ok('ls', '--clip', clip)).stdout.split('\n')).toContain('данные');
    expect((await clipctl.ok('ls', '--clip', clip, `/${path.dirname(UNICODE_FILE)}`)).stdout).toBe('мой файл ü.txt\n');
    expect((await clipctl.ok('ls', '-l', '--clip', clip, '/bin/setuid')).stdout).toMatch(
      /^-rwsr-sr-x +1 +1234 +70000 /,
    );
    const files = await clipctl.json<{ path: string }[]>('ls', '-R', '--clip', clip);
    expect(files.map((f) => f.path)).toContain('/data/a file with spaces.txt');
  });

  it('mount: prints the mount point and returns; ls -lR and a program out of the mount work', async () => {
    const at = await clipctl.place('mnt пункт 1');
    const ran = await clipctl.run(['mount', '--clip', clip, '--at', at]);
    expect(ran).toMatchObject({ code: 0, stdout: `${at}\n`, stderr: '' });
    expect(clipctl.mounts()).toContain(at);
    expect(execFileSync('ls', ['-lR', at], { encoding: 'utf8' })).toContain('os-release.link');
    const inside = await runProgram('chroot', [at, '/bin/sh', '-c', 'cat /etc/os-release; sha256sum /data/random.bin']);
    const digest = createHash('sha256').update(image.random).digest('hex');
    expect(inside).toMatchObject({ code: 0, stdout: `ID=clip-test\n${digest}  /data/random.bin\n` });
  });

  it('the mounted tree equals the one that umoci unpacks, down to the last xattr', async () => {
    const at = clipctl.path('mnt пункт 1');
    const rootfs = clipctl.path('umoci');
    const [, layout, tag] = image.reference.split(':');
    execFileSync('umoci', ['raw', 'unpack', '--image', `${layout}:${tag}`, rootfs], { stdio: 'pipe' });
    const expected = snapshotTree(rootfs);
    expect(expected.size).toBeGreaterThan(30);
    // The image names no attributes of its root: umoci leaves those of the directory that it made, now.
    const root = { ...expected.get('.')!, mtime: '0' };
    expect(compareTrees(snapshotTree(at), new Map([...expected, ['.', root]]))).toEqual([]);
  });

  it('ps lists the mounts, stats shows how much they fetched, health says that clipd answers', async () => {
    const at = clipctl.path('mnt пункт 1');
    expect(await clipctl.json('ps')).toMatchObject([{ mountPoint: at, reference, archivePath: clip }]);
    expect((await clipctl.ok('ps')).stdout).toContain(at);
    const { counters } = await clipctl.stats();
    expect(counters.demandBytes).toBeGreaterThan(0);
    expect(counters.requests).toBeGreaterThan(0);
    expect((await clipctl.run(['health'])).code).toBe(0);
  });

  it('mounting the same image at a second place shares the fetched spans', async () => {
    const second = await clipctl.place('second');
    const before = (await clipctl.stats()).counters;
    await clipctl.ok('mount', '--clip', clip, '--at', `${second}/`);
    expect(readFileSync(path.join(second, 'data/random.bin')).equals(image.random)).toBe(true);
    expect((await clipctl.stats()).counters.demandBytes).toBe(before.demandBytes);
    symlinkSync(second, clipctl.path('link'));
    await clipctl.ok('umount', clipctl.path('link'));
    expect(clipctl.mounts()).not.toContain(second);
  });

  it('the mount is read-only and nosuid,nodev', async () => {
    const at = clipctl.path('mnt пункт 1');
    expect(() => writeFileSync(path.join(at, 'new'), '')).toThrow(/EROFS/);
    expect(() => readFileSync(path.join(at, 'dev/null'))).toThrow(/EACCES/);
  });

  it('umount: ends it, and a second one is NOT_FOUND with one line', async () => {
    const at = clipctl.path('mnt пункт 1');
    expect(await clipctl.run(['umount', at])).toMatchObject({ code: 0, stdout: '', stderr: '' });
    expect(readdirSync(at)).toEqual([]);
    const again = await clipctl.run(['umount', at]);
    expect(again.code).toBe(EXIT_CODES.NOT_FOUND);
    expect(again.stderr).toContain(at);
    expect(await clipctl.json('ps')).toEqual([]);
  });

  it('a cold 4 KiB read fetches one span in one request', async () => {
    const cold = await Clipctl.create();
    try {
      const at = await cold.place('mnt');
      await cold.ok('mount', '--clip', clip, '--at', at, '--no-readahead');
      execFileSync('dd', [`if=${at}/data/random.bin`, 'bs=4096', 'skip=700', 'count=1', 'of=/dev/null'], {
        stdio: 'pipe',
      });
      const { counters } = await cold.stats();
      expect(counters).toMatchObject({ requests: 1, spansFetched: 1, readaheadBytes: 0 });
    } finally {
      await cold.close();
    }
  });

  it('mount --foreground stays, and Ctrl-C takes the mount away', async () => {
    const at = await clipctl.place('foreground');
    const ran = await clipctl.run(['mount', '--foreground', '--clip', clip, '--at', at], {
      onStart: (child) => child.stdout!.once('data', () => child.kill('SIGINT')),
    });
    expect(ran.code).toBe(130);
    expect(clipctl.mounts()).toEqual([]);
  });

  it('daemon --stop unmounts everything and leaves neither process nor socket', async () => {
    const at = await clipctl.place('stopped');
    await clipctl.ok('mount', '--clip', clip, '--at', at);
    const health = await clipctl.json<{ keeperPid: number; serverPid: number }>('health');
    await clipctl.ok('daemon', '--stop');
    expect(clipctl.mounts()).toEqual([]);
    for (const pid of [health.keeperPid, health.serverPid]) expect(isRunning(pid)).toBe(false);
    expect(readdirSync(clipctl.path('root')).filter((name) => name.endsWith('.sock'))).toEqual([]);
  });
});

/** A zombie that init has not reaped yet runs no more. */
function isRunning(pid: number): boolean {
  return existsSync(`/proc/${pid}`) && !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
}
