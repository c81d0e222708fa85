import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { ConnectionStats } from '../../src/wire/index.js';
import { Clipctl, PROGRAM } from '../support/clipctl.js';
import { Stage } from '../support/container-images.js';
import { layerLike } from '../support/gzip.js';
import type { TestImage } from '../support/images.js';
import { kernelTrouble } from '../support/kernel-log.js';
import { eventually, health, sha256Of } from '../support/mounted.js';

// Containers whose lower layer is the kernel's own EROFS: an overlay over a mount of the kernel plane.

const LARGE = layerLike(8e6, 77);

/** Ids of containers are the whole machine's. */
const RUNNING = [1, 2, 3].map((i) => `clip-plane-${process.pid}-${i}`);

let clip: Clipctl;
let image: TestImage;
let trouble: string[];

beforeAll(async () => {
  trouble = kernelTrouble();
  clip = await Clipctl.create();
  const stage = new Stage().base().file('opt/large', LARGE).mode('opt/large', 0o640);
  for (let i = 0; i < 5; i++) stage.file(`opt/many/file-${i}`, `lower ${i}\n`, 0o644, 1000);
  image = stage.image({ Env: ['PATH=/bin'], Cmd: ['/bin/sh'] });
});
afterAll(async () => {
  for (const name of RUNNING) await clip.run(['umount', '--cid', name, '--force']);
  image.remove();
  await clip.close();
  expect(kernelTrouble(trouble)).toEqual([]);
});

const run = (name: string, script: string): ReturnType<Clipctl['run']> =>
  clip.run(['run', '--rm', '--plane', 'kernel', '--name', name, image.reference, 'sh', '-c', script]);

test('a container copies up, hides, replaces and renames what the kernel shows below it, and the next one sees none of it', async () => {
  const script = `set -e
    sha256sum /opt/large | cut -d' ' -f1
    echo upper >> /opt/many/file-0; cat /opt/many/file-0; stat -c '%u %a' /opt/many/file-0
    rm /opt/many/file-1; mv /opt/many/file-2 /opt/many/renamed; ls /opt/many
    rm -r /opt/many; mkdir /opt/many; ls /opt/many | wc -l
    chmod 600 /opt/large; stat -c %a /opt/large; sha256sum /opt/large | cut -d' ' -f1`;
  const sum = sha256Of(LARGE);
  const expected = [
    sum,
    'lower 0',
    'upper',
    '1000 644',
    'file-0',
    'file-3',
    'file-4',
    'renamed',
    '0',
    '600',
    sum,
    '',
  ].join('\n');
  for (const name of ['first', 'second'].map((one) => `clip-plane-${process.pid}-${one}`)) {
    const ran = await run(name, script);
    expect([ran.code, ran.stderr, ran.stdout]).toEqual([0, '', expected]);
  }
});

test('containers go on while their server is killed, and share one mount of the kernel’s', async () => {
  const script = 'while [ ! -e /run/stop ]; do sha256sum /opt/large; done';
  const children = RUNNING.map((name) => {
    const args = [
      'run',
      '--rm',
      '--plane',
      'kernel',
      '--name',
      name,
      '-v',
      `${clip.directory}:/run:ro`,
      image.reference,
    ];
    const child = spawn(process.execPath, [PROGRAM, ...args, 'sh', '-c', script], { env: clip.env });
    let out = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      out += text;
    });
    return {
      ended: once(child, 'close'),
      sums: () =>
        out
          .trim()
          .split('\n')
          .map((line) => line.slice(0, 64)),
    };
  });
  const all = (count: number): Promise<void> =>
    eventually(() => children.every(({ sums }) => sums().length > count), 60_000);
  await all(1);
  const { connections } = await clip.json<{ connections: ConnectionStats[] }>('stats');
  expect(connections.map(({ plane, places }) => [plane.kind, places.length])).toEqual([['kernel', 3]]);
  for (let i = 0; i < 3; i++) {
    writeFileSync('/proc/sys/vm/drop_caches', '1');
    const { serverPid } = await health(clip);
    process.kill(serverPid, 'SIGKILL');
    await eventually(async () => (await health(clip)).serverPid !== serverPid);
    const before = Math.max(...children.map(({ sums }) => sums().length));
    await all(before);
  }
  writeFileSync(clip.path('stop'), '');
  for (const { ended, sums } of children) {
    expect(await ended).toEqual([0, null]);
    expect(new Set(sums())).toEqual(new Set([sha256Of(LARGE)]));
  }
});
