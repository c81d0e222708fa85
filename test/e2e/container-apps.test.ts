import { execFileSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { get } from 'node:http';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { findNode } from '../../demo/pack.js';
import { Clipctl } from '../support/clipctl.js';
import { own, Stage } from '../support/container-images.js';
import type { TestImage } from '../support/images.js';
import { eventually } from '../support/mounted.js';
import { freePort } from '../support/processes.js';

// Programs as people run them, out of images made from this machine's Debian packages.

let clip: Clipctl;
const images: TestImage[] = [];

beforeAll(async () => {
  clip = await Clipctl.create();
});
afterAll(async () => {
  for (const image of images) image.remove();
  await clip.close();
});

function make(stage: Stage, config: Record<string, unknown>): string {
  const image = stage.image(config, 'none');
  images.push(image);
  return image.reference;
}

const run = async (...args: string[]): Promise<string> => (await clip.ok('run', '--rm', ...args)).stdout;

test('python', async () => {
  const version = execFileSync('/usr/bin/python3', ['-c', 'import sys; print("%d.%d" % sys.version_info[:2])'], {
    encoding: 'utf8',
  }).trim();
  const stage = new Stage().base().program('/usr/bin/python3').copy(`/usr/lib/python${version}`);
  const image = make(stage, { Env: ['PATH=/usr/bin:/bin'], Cmd: ['python3', '-c', 'print(6 * 7)'] });
  expect(await run(image)).toBe('42\n');
  const program =
    'import os, sys; open("/root/x", "w").write("y" * 70000); print(os.getuid(), os.stat("/root/x").st_size, sys.argv[1])';
  expect(await run(image, 'python3', '-c', program, 'a b')).toBe('0 70000 a b\n');
});

test('node', async () => {
  const stage = new Stage().base().program(findNode().node, '/usr/bin/node');
  const image = make(stage, { Env: ['PATH=/usr/bin:/bin'], Entrypoint: ['node'], User: 'app' });
  const program =
    'require("fs").writeFileSync("/home/app/f", "x"); console.log(process.getuid(), require("os").hostname())';
  expect(await run('--name', 'node-box', image, '-e', program)).toBe('1000 node-box\n');
});

test('nginx serves what is in the image, and ends on SIGQUIT', async () => {
  const port = await freePort();
  const stage = new Stage().base().program('/usr/sbin/nginx').file('srv/index.html', '<p>from the image</p>\n');
  stage.directoryAt('var/log/nginx').directoryAt('var/lib/nginx').directoryAt('run');
  stage.file(
    'etc/nginx.conf',
    `error_log stderr; pid /run/nginx.pid; daemon off; user root;
events {} http { access_log off; server { listen 127.0.0.1:${port}; root /srv; } }\n`,
  );
  const image = make(stage, { Entrypoint: ['/usr/sbin/nginx', '-c', '/etc/nginx.conf'] });
  await clip.ok('run', '-d', '--rm', '--name', own('web'), image);
  const page = (): Promise<string> =>
    new Promise((resolve) => {
      const request = get({ host: '127.0.0.1', port }, (response) => {
        let text = '';
        response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
        response.on('end', () => resolve(text));
      });
      request.on('error', () => resolve(''));
    });
  await eventually(async () => (await page()) === '<p>from the image</p>\n');
  execFileSync('runc', ['kill', own('web'), 'QUIT']);
  await eventually(() => !existsSync(clip.path('root', own('web'))));
});

test('postgres: initdb writes through the overlay, then queries', async () => {
  const bin = '/usr/lib/postgresql/15/bin';
  const stage = new Stage().base();
  for (const name of ['initdb', 'postgres', 'pg_ctl', 'psql']) stage.program(`${bin}/${name}`);
  stage.copy('/usr/lib/postgresql/15/lib').copy('/usr/share/postgresql/15').directoryAt('var/lib/pg', 0o700, 105);
  for (const zone of ['UTC', 'GMT'])
    if (existsSync(`/usr/share/zoneinfo/${zone}`)) stage.copy(`/usr/share/zoneinfo/${zone}`);
  stage.file('etc/passwd', 'root:x:0:0:root:/root:/bin/sh\npostgres:x:105:105::/var/lib/pg:/bin/sh\n');
  stage.file('etc/group', 'root:x:0:\npostgres:x:105:\n');
  const image = make(stage, { Env: [`PATH=${bin}:/bin`, 'TZ=UTC'], User: 'postgres', WorkingDir: '/var/lib/pg' });
  const script = clip.path('script.sh');
  writeFileSync(
    script,
    `set -e
initdb -D data --locale=C --encoding=UTF8 -N >/dev/null
pg_ctl -D data -w -l log -o "-k /tmp -c listen_addresses=" start >/dev/null
psql -h /tmp -q -d postgres -c 'create table t as select i, md5(i::text) m from generate_series(1, 20000) i; create index on t (m)'
psql -h /tmp -At -d postgres -c "select count(*), max(i) from t where m < '8'"
psql -h /tmp -At -d postgres -c "select i from t where m = md5('777')"
pg_ctl -D data -w -m fast stop >/dev/null
`,
  );
  const out = await run('-v', `${script}:/script.sh:ro`, image, 'sh', '/script.sh');
  const [counted, found] = out.trim().split('\n');
  expect(counted).toMatch(/^\d+\|\d+$/);
  expect(Number(counted!.split('|')[0])).toBeGreaterThan(9000);
  expect(found).toBe('777');
});
