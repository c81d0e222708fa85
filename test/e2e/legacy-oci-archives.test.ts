import { rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { Clipctl } from '../support/clipctl.js';
import { expectedNodes, fixture, LEGACY, OCI } from '../support/legacy.js';
import { at, compareTree as compare } from '../support/legacy-tree.js';
import { eventually, health, sha256Of as sha256 } from '../support/mounted.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';

// Archives that the Go program made of images, mounted and read. Needs root and /dev/fuse.

describe('OCI archives', () => {
  let registry: TestRegistry;

  beforeAll(async () => {
    registry = await startRegistry();
    await registry.push(`oci:${LEGACY}/oci-image:1`, 'legacy/small:1');
  });

  afterAll(() => registry.stop());

  test('its layers are indexed by the first mount, and read by ranges from then on', async () => {
    const own = await Clipctl.create();
    try {
      for (const name of OCI) {
        const place = await own.place(name);
        const image = ['--storage-image', `${registry.host}/legacy/small:1`];
        await own.ok('mount', '--clip', fixture(name), '--at', place, ...image);
        await compare(place, expectedNodes(name), () => null);
        await own.ok('umount', place);
      }
      // Against the image itself, as clip indexes it.
      const out = own.path('v3.clip');
      await own.ok('index', '--image', `${registry.host}/legacy/small:1`, '--out', out);
      const [old, fresh] = [await own.place('old'), await own.place('fresh')];
      await own.ok(
        'mount',
        '--clip',
        fixture('oci-2026-05'),
        '--at',
        old,
        '--storage-image',
        `${registry.host}/legacy/small`,
      );
      await own.ok('mount', '--clip', out, '--at', fresh);
      for (const { type, path } of expectedNodes('oci-2026-05')) {
        if (type !== 'file') continue;
        expect(sha256(await readFile(at(old, path)))).toBe(sha256(await readFile(at(fresh, path))));
      }
    } finally {
      await own.close();
    }
  });

  test('indexing the layers shows its progress, once', async () => {
    const image = ['--storage-image', `${registry.host}/legacy/small:1`];
    const own = await Clipctl.create();
    try {
      const place = await own.place('m');
      const mount = ['mount', '--clip', fixture('oci-2026-05'), '--at', place, ...image];
      const first = await own.run([...mount, '--progress', 'plain']);
      expect(first).toMatchObject({ code: 0, stderr: expect.stringMatching(/clipctl: [\d.]+ .?B of [\d.]+ .?B/) });
      await own.ok('umount', place);
      // The index is there by now.
      expect(await own.run([...mount, '--progress', 'plain'])).toMatchObject({ code: 0, stderr: '' });
      await own.ok('umount', place);
    } finally {
      await own.close();
    }
  });

  // Attack: an archive whose registry does not answer, and whose index is gone, kept the next server from serving the others.
  test('a mount whose layers must be indexed again keeps no other mount waiting for its registry', async () => {
    const own = await Clipctl.create();
    // Passes on to the registry, until it is told to answer nothing any more.
    let silent = false;
    const sockets = new Set<Socket>();
    const between = createServer((socket) => {
      sockets.add(socket.on('error', () => {}));
      if (silent) return;
      const there = connect(registry.port, '127.0.0.1').on('error', () => {});
      sockets.add(there);
      socket.pipe(there).pipe(socket);
    });
    await new Promise<void>((resolve) => between.listen(0, '127.0.0.1', resolve));
    try {
      const { port } = between.address() as AddressInfo;
      const [old, other] = [await own.place('old'), await own.place('other')];
      const image = ['--storage-image', `127.0.0.1:${port}/legacy/small:1`];
      await own.ok('mount', '--clip', fixture('oci-2026-05'), '--at', old, ...image);
      await own.ok('index', '--image', `${registry.host}/legacy/small:1`, '--out', own.path('other.clip'));
      await own.ok('mount', '--clip', own.path('other.clip'), '--at', other);
      silent = true;
      for (const socket of sockets) socket.destroy();
      rmSync(own.path('cache', 'layers'), { recursive: true });
      const { serverPid } = await health(own);
      process.kill(serverPid, 'SIGKILL');
      // It serves, and tells so, while the other one's registry says nothing.
      await eventually(async () => (await health(own)).serverPid !== serverPid);
      const [some] = expectedNodes('oci-2026-05').filter(({ type, size }) => type === 'file' && size > 0);
      expect((await readFile(at(other, some!.path))).length).toBe(some!.size);
      expect(await own.json('ps')).toHaveLength(2);
      // It comes back when its registry does.
      silent = false;
      for (const socket of sockets) socket.destroy();
      expect((await readFile(at(old, some!.path))).length).toBe(some!.size);
    } finally {
      await own.close();
      for (const socket of sockets) socket.destroy();
      between.close();
    }
  });

  test('a registry that has not the layers is an error of the mount', async () => {
    const own = await Clipctl.create();
    try {
      const place = await own.place('m');
      const ran = await own.run([
        'mount',
        '--clip',
        fixture('oci-2026-05'),
        '--at',
        place,
        '--storage-image',
        `${registry.host}/no/such`,
      ]);
      expect(ran.code).toBe(EXIT_CODES.NOT_FOUND);
      expect(ran.stderr).toMatch(/no\/such/);
      expect(own.mounts()).toEqual([]);
    } finally {
      await own.close();
    }
  });
});
