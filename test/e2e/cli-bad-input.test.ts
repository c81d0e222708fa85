import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type ErrorCode, EXIT_CODES } from '../../src/bytes/index.js';
import { Clipctl, PROGRAM, type Ran, runProgram } from '../support/clipctl.js';
import { LayoutBuilder, MEDIA, sha256 } from '../support/layout.js';
import { startProxy } from '../support/proxy.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';
import { dir, file, tar } from '../support/tar.js';

/** The form of an error: exit code, nothing on stdout, one line that names the thing, no stack; perhaps a line with the next step. */
function expectError(ran: Ran, code: ErrorCode, ...names: readonly (string | RegExp)[]): void {
  expect(ran.stdout).toBe('');
  const [first, ...rest] = ran.stderr.trimEnd().split('\n');
  for (const name of names) expect(first).toMatch(name);
  expect(first).toMatch(/^clipctl: /);
  expect(rest.length).toBeLessThanOrEqual(1);
  expect(ran.code).toBe(EXIT_CODES[code]);
}

describe('bad input to clipctl index', () => {
  let clipctl: Clipctl;
  let layout: LayoutBuilder;
  let registry: TestRegistry;
  const content = tar(dir('etc'), file('etc/hello', 'hello\n'));

  beforeAll(async () => {
    clipctl = await Clipctl.create();
    layout = new LayoutBuilder();
    layout.tag(layout.image([content], { architecture: process.arch === 'x64' ? 'amd64' : process.arch }), 'good');
    registry = await startRegistry();
    await registry.push(`oci:${layout.directory}:good`, 'app:good');
  });
  afterAll(async () => {
    await registry?.stop();
    layout?.remove();
    await clipctl?.close();
  });

  /** Nothing half written may stay beside the archive that was not made. */
  const index = async (reference: string, ...flags: string[]): Promise<Ran> => {
    const out = clipctl.path('out');
    mkdirSync(out, { recursive: true });
    const ran = await clipctl.run(['index', '--image', reference, '--out', path.join(out, 'x.clip'), ...flags]);
    expect(readdirSync(out)).toEqual([]);
    return ran;
  };

  it('no server listens', async () => {
    expectError(await index('127.0.0.1:1/app:good'), 'NETWORK', '127.0.0.1:1');
  });

  it('a server that is no registry', async () => {
    const server = createServer((_, response) => response.end('<html>hello</html>'));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    try {
      const host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
      expectError(await index(`${host}/app:good`), 'BAD_FORMAT', host);
    } finally {
      server.closeAllConnections();
      server.close();
    }
  });

  it.each([
    [401, 'UNAUTHORIZED'],
    [403, 'UNAUTHORIZED'],
    [404, 'NOT_FOUND'],
    [500, 'NETWORK'],
  ] as const)('a registry that answers %i: %s', async (status, code) => {
    const proxy = await startProxy({ upstream: registry.url });
    proxy.fault = () => ({ respond: { status, body: '{}' } });
    try {
      expectError(await index(`${proxy.host}/app:good`), code, proxy.host);
    } finally {
      await proxy.stop();
    }
  });

  it('no such repository, no such tag, no reference at all: each with the next step', async () => {
    const hintOf = async (
      code: ErrorCode,
      reference: string,
      named: string,
      ...flags: string[]
    ): Promise<string | undefined> => {
      const ran = await index(reference, ...flags);
      expectError(ran, code, named);
      return ran.stderr.split('\n')[1];
    };
    expect(await hintOf('NOT_FOUND', `${registry.host}/nothing:good`, 'nothing')).toContain('check the name');
    expect(await hintOf('NOT_FOUND', `${registry.host}/app:nothing`, 'nothing')).toContain('it has these tags: good');
    for (const reference of ['', 'a b', 'host:99999/a', 'a//b']) {
      expect(await hintOf('BAD_REFERENCE', reference, 'is not an image reference')).toContain(
        '[HOST[:PORT]/]NAME[:TAG]',
      );
    }
    expect(await hintOf('USAGE', `${registry.host}/app:good`, '0 MiB', '--checkpoint', '0')).toContain('--checkpoint');
  });

  it('--plain-http to a port that speaks TLS', async () => {
    const secure = await startRegistry({ tls: true });
    try {
      const ran = await index(`${secure.host}/app:good`, '--plain-http');
      expectError(ran, 'NETWORK', secure.host);
      expect(ran.stderr.split('\n')[1]).toContain('leave --plain-http out');
    } finally {
      await secure.stop();
    }
  });

  it.each([
    ['no JSON', '{bad', 'BAD_FORMAT'],
    ['no object', '[]', 'BAD_FORMAT'],
    ['a broken entry', '{"auths":{"HOST":{"auth":"!!!"}}}', 'BAD_FORMAT'],
    ['a helper that is not there', '{"credHelpers":{"HOST":"nosuch"}}', 'UNAUTHORIZED'],
  ] as const)('a Docker config with %s: the error ends the program', { timeout: 20_000 }, async (_name, text, code) => {
    const secret = await startRegistry({ auth: 'basic' });
    const config = clipctl.path('docker');
    mkdirSync(config, { recursive: true });
    writeFileSync(path.join(config, 'config.json'), text.replace('HOST', secret.host));
    try {
      const args = ['index', '--image', `${secret.host}/app:good`, '--out', clipctl.path('never.clip')];
      const ran = await clipctl.run(args, { env: { DOCKER_CONFIG: config } });
      expectError(ran, code);
      expect(ran.stderr.split('\n')[1]).toMatch(/docker login|install it/);
    } finally {
      await secret.stop();
    }
  });

  it('texts that are no image references', async () => {
    expectError(await index('UPPER::case'), 'BAD_REFERENCE', 'UPPER::case');
  });

  it('no such platform: says which there are', async () => {
    const arm = layout.image([content], { architecture: 'arm64' });
    const s390 = layout.image([content], { architecture: 's390x' });
    const both = layout.index([
      { ...arm, platform: { os: 'linux', architecture: 'arm64' } },
      { ...s390, platform: { os: 'linux', architecture: 's390x' } },
    ]);
    const ran = await index(layout.tag(both, 'multi'), '--platform', 'linux/riscv64');
    expect(ran.code).toBe(EXIT_CODES.NO_PLATFORM);
    expect(ran.stderr).toContain('linux/riscv64');
    expect(ran.stderr).toMatch(/linux\/arm64.*linux\/s390x/s);
  });

  it('no such image layout, no such tag in one', async () => {
    expectError(await index('oci:/nowhere/at all:tag'), 'NOT_FOUND', '/nowhere/at all');
    expectError(await index(`oci:${layout.directory}:nothing`), 'NOT_FOUND', 'nothing');
  });

  const layerOf = (bytes: Uint8Array, diff: Uint8Array = content): { reference: string; digest: string } => {
    const config = layout.json(
      { os: 'linux', architecture: 'amd64', config: {}, rootfs: { type: 'layers', diff_ids: [sha256(diff)] } },
      MEDIA.ociConfig,
    );
    const blob = layout.blob(bytes, MEDIA.ociLayer);
    return {
      reference: layout.tag(layout.manifest(config, [blob]), `t${blob.digest.slice(7, 19)}`),
      digest: blob.digest,
    };
  };
  const gzip = (bytes: Uint8Array): Buffer => execFileSync('gzip', ['-nc'], { input: bytes });

  it.each([
    ['neither tar nor compressed tar', Buffer.from('plain text, long enough to be looked at. '.repeat(40))],
    ['gzip of what is no tar', gzip(Buffer.from('plain text, long enough to be looked at. '.repeat(40)))],
    ['truncated gzip', gzip(content).subarray(0, -20)],
    ['gzip with a wrong CRC-32', Buffer.concat([gzip(content).subarray(0, -8), Buffer.alloc(8)])],
    ['tar with a bad header checksum', gzip(Uint8Array.from(content, (byte, i) => (i === 3 ? byte ^ 1 : byte)))],
    ['tar that ends within a file', gzip(content.subarray(0, 512 + 512 + 3))],
  ])('a layer that is %s', async (_, bytes) => {
    const { reference, digest } = layerOf(bytes);
    const ran = await index(reference);
    expectError(ran, 'BAD_FORMAT', digest.slice(7, 19));
    expect(ran.stderr.split('\n')[1]).toMatch(/^ {2}(the layer is damaged|only layers that are tar)/);
  });

  it('a tar with .. in its names: cleaned at the root', async () => {
    const { reference } = layerOf(gzip(tar(file('../../../etc/passwd', 'inside\n'), file('/abs/./file', ''))));
    const clip = clipctl.path('dots.clip');
    await clipctl.ok('index', '--image', reference, '--out', clip);
    const listed = await clipctl.ok('ls', '-R', '--clip', clip);
    expect(listed.stdout).toContain('/etc:\npasswd\n');
    expect(listed.stdout).not.toContain('..');
  });

  it('a blob that does not match its digest', async () => {
    const { reference, digest } = layerOf(gzip(tar(file('a', 'a'.repeat(5000)))));
    const file_ = layout.blobPath(digest);
    const bytes = readFileSync(file_);
    bytes[bytes.length >> 1]! ^= 0x20;
    writeFileSync(file_, bytes);
    expectError(await index(reference), 'BAD_FORMAT', digest.slice(7, 19));
  });

  it('a directory to write to that is not there, that is a file, that is read-only', async () => {
    const reference = `${registry.host}/app:good`;
    const run = (out: string): Promise<Ran> => clipctl.run(['index', '--image', reference, '--out', out]);
    expectError(await run('/nowhere/x.clip'), 'NOT_FOUND', '/nowhere/x.clip');
    writeFileSync(clipctl.path('plain'), '');
    expectError(await run(clipctl.path('plain', 'x.clip')), 'SYSTEM', clipctl.path('plain', 'x.clip'));
    expectError(await run('/proc/x.clip'), 'NOT_FOUND', '/proc/x.clip');
    expectError(await run(''), 'USAGE', 'the path of the archive to write is empty');
    mkdirSync(clipctl.path('directory.clip'));
    expectError(await run(clipctl.path('directory.clip')), 'SYSTEM', clipctl.path('directory.clip'));
  });

  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('%s in the middle leaves nothing, and an older archive as it was', async (signal, code) => {
    const slow = await startProxy({ upstream: registry.url });
    // The layer's body stops half way.
    let child: ChildProcess | undefined;
    slow.fault = (request) => {
      if (!request.path.includes('/blobs/')) return null;
      child?.kill(signal);
      return { stallAfter: 60 };
    };
    const out = clipctl.path(`interrupted-${signal}`);
    mkdirSync(out);
    writeFileSync(path.join(out, 'old.clip'), 'older');
    try {
      const ran = await clipctl.run(
        ['index', '--image', `${slow.host}/app:good`, '--out', path.join(out, 'old.clip')],
        {
          onStart: (started) => {
            child = started;
          },
        },
      );
      expect(ran.code).toBe(code);
      expect(ran.stdout).toBe('');
      expect(readdirSync(out)).toEqual(['old.clip']);
      expect(readFileSync(path.join(out, 'old.clip'), 'utf8')).toBe('older');
    } finally {
      await slow.stop();
    }
  });

  it('SIGINT while a mount indexes its image ends it, though the registry does not go on', async () => {
    const slow = await startProxy({ upstream: registry.url });
    let child: ChildProcess | undefined;
    slow.fault = (request) => {
      if (!request.path.includes('/blobs/')) return null;
      child?.kill('SIGINT');
      return { stallAfter: 60 };
    };
    try {
      const at = await clipctl.place('interrupted-at');
      const ran = await clipctl.run(['mount', `${slow.host}/app:good`, at], {
        onStart: (started) => {
          child = started;
        },
      });
      expect([ran.code, ran.stdout]).toEqual([130, '']);
      expect(clipctl.mounts()).toEqual([]);
      expect(await clipctl.json('archives', 'ls')).toEqual([]);
    } finally {
      await slow.stop();
    }
  });
});

describe('bad input to clipctl mount', () => {
  let clipctl: Clipctl;
  let layout: LayoutBuilder;
  let clip: string;

  beforeAll(async () => {
    clipctl = await Clipctl.create();
    layout = new LayoutBuilder();
    const image = layout.image([tar(dir('etc'), file('etc/hello', 'hello\n'))]);
    clip = clipctl.path('good.clip');
    await clipctl.ok('index', '--image', layout.tag(image, 'good'), '--out', clip);
  });
  afterEach(() => expect(clipctl.mounts()).toEqual([]));
  afterAll(async () => {
    layout?.remove();
    await clipctl?.close();
  });

  const mount = (archive: string, at: string, ...flags: string[]): Promise<Ran> =>
    clipctl.run(['mount', '--clip', archive, '--at', at, ...flags]);

  it('no such archive, a directory, an empty file, another file', async () => {
    const at = await clipctl.place('at');
    expectError(await mount(clipctl.path('none.clip'), at), 'NOT_FOUND', 'none.clip');
    expectError(await mount(clipctl.directory, at), 'BAD_FORMAT', clipctl.directory);
    writeFileSync(clipctl.path('empty.clip'), '');
    expectError(await mount(clipctl.path('empty.clip'), at), 'BAD_FORMAT', 'empty.clip');
    expectError(await mount('/etc/passwd', at), 'BAD_FORMAT', '/etc/passwd');
  });

  it('an archive cut off or altered, wherever: refused, with the section named where there is one', async () => {
    const at = await clipctl.place('at');
    const bytes = readFileSync(clip);
    const { sections } = await clipctl.json<{ sections: { name: string; offset: number; storedLength: number }[] }>(
      'inspect',
      '--clip',
      clip,
    );
    const bad = clipctl.path('bad.clip');
    for (const { name, offset, storedLength } of sections.filter((s) => s.storedLength > 0 && s.name !== 'windows')) {
      const altered = Buffer.from(bytes);
      altered[offset + (storedLength >> 1)]! ^= 1;
      writeFileSync(bad, altered);
      expectError(await mount(bad, at), 'BAD_FORMAT', 'bad.clip', name);
    }
    for (const length of [5, 20, sections[0]!.offset, bytes.length - 1]) {
      writeFileSync(bad, bytes.subarray(0, length));
      expectError(await mount(bad, at), 'BAD_FORMAT', 'bad.clip');
    }
  });

  it('a mount point that is not there, is a file, is busy with a clip mount', async () => {
    expectError(await mount(clip, clipctl.path('nowhere')), 'NOT_FOUND', 'nowhere');
    writeFileSync(clipctl.path('plain'), '');
    expectError(await mount(clip, clipctl.path('plain')), 'NOT_FOUND', 'plain');
    symlinkSync('round', clipctl.path('round'));
    expectError(
      await mount(clip, clipctl.path('round')),
      'NOT_FOUND',
      /round leads through a circle of symbolic links/,
    );
    const at = await clipctl.place('at');
    await clipctl.ok('mount', '--clip', clip, '--at', at);
    expectError(await mount(clip, at), 'BUSY', at);
    await clipctl.ok('umount', at);
  });

  it('relative paths in a directory that has been removed', async () => {
    for (const command of ['umount at', 'index --image oci:layout --out x']) {
      mkdirSync(clipctl.path('removed'));
      const script = `cd "$1"; rmdir "$1"; exec "$2" "$3" ${command}`;
      const ran = await runProgram('sh', ['-c', script, 'sh', clipctl.path('removed'), process.execPath, PROGRAM]);
      expectError(ran, 'NOT_FOUND', /the current directory has been removed/);
    }
  });

  it('umount of a directory that is not mounted, and of a foreign mount', async () => {
    expectError(await clipctl.run(['umount', await clipctl.place('at')]), 'NOT_FOUND', 'at');
    expectError(await clipctl.run(['umount', '/proc']), 'NOT_FOUND', '/proc');
  });

  it('a busy mount: names its holders; --lazy ends it', async () => {
    const at = await clipctl.place('busy');
    symlinkSync(at, clipctl.path('busy-link'));
    await clipctl.ok('mount', '--clip', clip, '--at', at);
    const holder = spawn('sleep', ['60'], { cwd: at });
    try {
      const ran = await clipctl.run(['umount', clipctl.path('busy-link')]);
      expect(ran.code).toBe(EXIT_CODES.BUSY);
      expect(ran.stderr).toContain(at);
      expect(ran.stderr).toContain(String(holder.pid));
      await clipctl.ok('umount', '--lazy', at);
    } finally {
      holder.kill();
      await new Promise((resolve) => holder.once('exit', resolve));
    }
  });

  it('no /dev/fuse: names it, and the next step', async () => {
    const at = await clipctl.place('nofuse');
    const own = await Clipctl.create();
    try {
      // A mount namespace with an empty /dev; the clipd that this starts lives in it.
      const script = 'mount -t tmpfs none /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9 && exec "$@"';
      const command = [process.execPath, 'bin/clipctl.js', 'mount', '--clip', clip, '--at', at];
      const root = new URL('../../..', import.meta.url).pathname;
      const ran = await runProgram('unshare', ['-m', 'sh', '-c', script, 'sh', ...command], {
        env: own.env,
        cwd: root,
      });
      expectError(ran, 'UNSUPPORTED', '/dev/fuse');
    } finally {
      await own.close();
    }
  });

  it.each([
    ['--rate', 'prefetch', '/mnt', '--rate', '0'],
    ['--to', 'cache', 'prune', '--to', '9000T'],
    ['--cache-size', 'mount', '--clip', 'x', '--at', '/mnt', '--cache-size', '9000T'],
  ])('a number out of range: a usage error that names %s, before anything is done', async (option, ...args) => {
    const ran = await clipctl.run(args);
    expectError(ran, 'USAGE', `option '${option} `, args[args.indexOf(option) + 1]!, 'expected');
  });

  it('optimize with checkpoints out of range: said before anything is run or read', async () => {
    for (const what of [
      ['--image', 'oci:/nonexistent', '--out', 'x', '--checkpoint', '0', '--', 'true'],
      ['--clip', 'x', '--profile', 'x', '--checkpoint', '65'],
    ]) {
      expectError(await clipctl.run(['optimize', ...what]), 'USAGE', `${what[5]} MiB: a whole number from 1 to 64`);
    }
  });

  it('no permission to write where clipd keeps its state: names the directory', async () => {
    const command = ['bin/clipctl.js', 'mount', '--clip', clip, '--at', await clipctl.place('denied')];
    const root = new URL('../../..', import.meta.url).pathname;
    const who = ['--reuid', '65534', '--regid', '65534', '--clear-groups', process.execPath];
    execFileSync('chmod', ['755', clipctl.directory]);
    const env = {
      ...clipctl.env,
      HOME: '/nonexistent',
      CLIP_ROOT: clipctl.path('others'),
      CLIP_CACHE_DIR: clipctl.path('others-cache'),
    };
    expectError(await runProgram('setpriv', [...who, ...command], { env, cwd: root }), 'PERMISSION', 'others');
  });

  it('a result that cannot be written: one line, and exit code 1', async () => {
    for (const what of [['ls', '-R', '--clip', clip, '--json'], ['inspect', '--clip', clip], ['help']]) {
      const command = ['-c', 'exec "$@" >/dev/full', 'sh', process.execPath, 'bin/clipctl.js', ...what];
      const root = new URL('../../..', import.meta.url).pathname;
      expectError(await runProgram('sh', command, { env: clipctl.env, cwd: root }), 'SYSTEM', 'stdout', 'ENOSPC');
    }
  });
});
