import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Clipctl } from '../support/clipctl.js';
import { layerLike } from '../support/gzip.js';
import { writeImage } from '../support/images.js';
import { eventually } from '../support/mounted.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';
import { file, tar } from '../support/tar.js';

// Canaries in every place where a secret can reach clipd, and failures of all that handles them: none may be in a log, at the level debug.

/** Recognisable in any form: as it is, in base64, in a URL. */
const canary = (name: string): string => `c4n4ry-${name}-0123456789abcdef`;
const FORMS = [/c4n4ry/i, new RegExp(Buffer.from('c4n4ry').toString('base64').slice(0, 7))];

let registry: TestRegistry;
let mirror: Server;
let clip: Clipctl;

beforeAll(async () => {
  registry = await startRegistry();
  const image = writeImage([tar(file('data', layerLike(3_000_000, 1)))]);
  await registry.push(image.reference, 'app:one');
  image.remove();
  // A mirror that redirects to a signed URL at which nothing answers, and repeats its caller's login in its errors.
  mirror = createServer((request, response) => {
    if (request.url?.includes('/blobs/')) {
      const location = `http://user:${canary('redirect')}@127.0.0.1:1/blob?X-Amz-Signature=${canary('signature')}&sig=${canary('sas')}`;
      response.writeHead(307, { location }).end();
      return;
    }
    const message = `refused ${request.headers.authorization} ${request.headers['x-own']} token=${canary('body')}`;
    response
      .writeHead(500, { 'content-type': 'application/json' })
      .end(JSON.stringify({ errors: [{ code: 'UNKNOWN', message: `https://u:${canary('body')}@h/ ${message}` }] }));
  });
  await new Promise<void>((resolve) => mirror.listen(0, '127.0.0.1', resolve));
  const { port } = mirror.address() as { port: number };
  clip = await Clipctl.create();
  const hosts = clip.path('hosts', registry.host.replace(/:(\d+)$/, '_$1_'));
  mkdirSync(hosts, { recursive: true });
  writeFileSync(
    join(hosts, 'hosts.toml'),
    `[host."http://127.0.0.1:${port}"]\ncapabilities = ["pull", "resolve"]\n[host."http://127.0.0.1:${port}".header]\nauthorization = "Bearer ${canary('header')}"\n`,
  );
}, 60_000);
afterAll(async () => {
  await clip?.close();
  mirror?.close();
  await registry?.stop();
});

test('no login, token, key or signed URL is in the log or on stderr, whatever fails', async () => {
  const said: string[] = [];
  const archive = clip.path('app.clip');
  const run = async (args: string[], env: NodeJS.ProcessEnv = {}): Promise<number | null> => {
    const ran = await clip.run([...args, '--log-level', 'debug'], { env });
    said.push(ran.stderr, ran.stdout);
    return ran.code;
  };
  expect(await run(['index', '--image', `${registry.host}/app:one`, '--out', archive])).toBe(0);
  const name = registry.host.toUpperCase().replaceAll(/[^A-Z0-9]/g, '_');
  const env = {
    [`CLIP_REGISTRY_USER_${name}`]: 'user',
    [`CLIP_REGISTRY_PASS_${name}`]: canary('environment'),
    CLIP_OCI_AUTH: JSON.stringify({ [registry.host]: { username: 'u', password: canary('oci') } }),
    CLIP_HOSTS_DIR: clip.path('hosts'),
    CLIP_CONTENT_CACHE: `redis://user:${canary('redis')}@127.0.0.1:1/0`,
    HTTPS_PROXY: `http://user:${canary('proxy')}@127.0.0.1:1`,
    AWS_SECRET_ACCESS_KEY: canary('aws'),
    AWS_SESSION_TOKEN: canary('session'),
  };
  const place = await clip.place('mnt');
  const flags = ['--read-timeout', '2', '--creds', `user:${canary('flag')}`];
  expect(await run(['mount', '--clip', archive, '--at', place, ...flags], env)).toBe(0);
  await registry.stop();
  // A read that every source fails: the cache, the mirror with its signed URL, the registry that has gone.
  const handle = await open(join(place, 'data'));
  await expect(handle.read(Buffer.alloc(10), 0, 10, 1_000_000)).rejects.toMatchObject({ code: 'EIO' });
  await handle.close();
  const log = clip.path('root', 'clipd.log');
  await eventually(() => existsSync(log) && readFileSync(log, 'utf8').includes('a read timed out'));
  said.push((await clip.run(['stats', '--json'], { env })).stdout, (await clip.run(['ps', '--json'], { env })).stdout);
  // Another clipd's settings in a conflict, and URLs that cannot be used.
  await run(['mount', '--clip', archive, '--at', await clip.place('other')], {
    ...env,
    CLIP_CONTENT_CACHE: `redis://user:${canary('conflict')}@127.0.0.1:2/0`,
  });
  await run(['mount', '--clip', archive, '--at', place], {
    CLIP_CONTENT_CACHE: `nonsense://user:${canary('nonsense')}@h`,
  });
  await run(['doctor', `${registry.host}/app:one`, '--creds', `user:${canary('doctor')}`], env);
  const text = readFileSync(log, 'utf8');
  expect(text.split('\n').length).toBeGreaterThan(5);
  for (const line of `${text}\n${said.join('\n')}`.split('\n')) {
    for (const form of FORMS) expect(line).not.toMatch(form);
  }
}, 60_000);
