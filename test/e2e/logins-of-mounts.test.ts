import { chmodSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { ArchiveContents } from '../../src/archive/index.js';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { ClipdClient, prepareMount } from '../../src/client/index.js';
import { Clipctl } from '../support/clipctl.js';
import { layerToForge, readContents, sealed } from '../support/forged.js';
import { writeImage } from '../support/images.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';

// The author of an archive names the registry of its layers, and wants the login that root has for another one.

let clip: Clipctl;
let registry: TestRegistry;
let contents: ArchiveContents;
/** The author's own registry: it asks for a login, and remembers what it got. */
let theirs: Server;
const got: string[] = [];
let asked = 0;

beforeAll(async () => {
  clip = await Clipctl.create();
  registry = await startRegistry();
  const image = writeImage([layerToForge()]);
  await registry.push(image.reference, 'app:1');
  image.remove();
  await clip.ok('index', '--image', `${registry.host}/app:1`, '--out', clip.path('honest.clip'));
  contents = readContents(clip.path('honest.clip'));
  theirs = createServer((request, response) => {
    asked++;
    if (request.headers.authorization !== undefined) got.push(request.headers.authorization);
    response.writeHead(401, { 'www-authenticate': 'Basic realm="theirs"' }).end();
  });
  await new Promise<void>((resolve) => theirs.listen(0, '127.0.0.1', resolve));
});
afterAll(async () => {
  theirs.close();
  await clip.close();
  await registry.stop();
});

function archiveOf(place: { registry: string; repository: string }, name: string): string {
  const path = clip.path(name);
  writeFileSync(path, sealed({ ...contents, image: { ...contents.image, ...place } }));
  return path;
}

const theirHost = (): string => `127.0.0.1:${(theirs.address() as AddressInfo).port}`;

test('an archive that is replaced between the look at it and its mount gets no login of the first one’s registry', async () => {
  await clip.ok('mount', '--clip', clip.path('honest.clip'), '--at', await clip.place('first')); // starts clipd
  const archivePath = archiveOf({ registry: registry.host, repository: 'app' }, 'theirs.clip');
  const mountPoint = await clip.place('theirs');
  const client = new ClipdClient(clip.path('root'));
  const credentials = { username: 'root', password: 'geheim' };
  const options = { options: { readTimeout: 5, prefetch: false } };
  const request = await prepareMount({ archivePath, mountPoint, credentials, ...options }, {}, client.root);
  renameSync(archiveOf({ registry: theirHost(), repository: 'app' }, 'new.clip'), archivePath);
  await client.mount(request);
  await clip.ok('cache', 'prune', '--to', '0', '--mounted');
  // The other mount has the layer, too: without it there is only the registry that the archive names.
  await clip.ok('umount', clip.path('first'));
  await expect(readFile(`${mountPoint}/large`)).rejects.toThrow('EIO');
  expect(got).toEqual([]);
  expect(readFileSync(clip.path('root', 'clipd.log'), 'utf8')).toMatch(/is wanted with a login for/);
  // Of a mount that is asked for with a login for it, it gets that.
  await clip.ok('umount', mountPoint);
  const place = await clip.place('again');
  await clip.ok('mount', '--clip', archivePath, '--at', place, '--creds', 'their:own', '--read-timeout', '5');
  await expect(readFile(`${place}/large`)).rejects.toThrow('EIO');
  expect(new Set(got)).toEqual(new Set([`Basic ${Buffer.from('their:own').toString('base64')}`]));
  await clip.ok('umount', place);
});

test('a mirror that asks for a login gets its own or none, never that of the registry', async () => {
  got.length = 0;
  const hosts = clip.path('hosts', registry.host.replace(/:(\d+)$/, '_$1_'));
  mkdirSync(hosts, { recursive: true });
  writeFileSync(`${hosts}/hosts.toml`, `[host."http://${theirHost()}"]\ncapabilities = ["pull", "resolve"]\n`);
  const login = (text: string): object => ({ auth: Buffer.from(text).toString('base64') });
  const auths: Record<string, object> = { [registry.host]: login('root:geheim') };
  const env = { CLIP_HOSTS_DIR: clip.path('hosts'), DOCKER_CONFIG: clip.path('docker') };
  mkdirSync(env.DOCKER_CONFIG);
  const place = await clip.place('mirrored');
  for (const [own, expected] of [
    [null, []],
    ['mirror:own', [`Basic ${Buffer.from('mirror:own').toString('base64')}`]],
  ] as const) {
    if (own !== null) auths[theirHost()] = login(own);
    writeFileSync(`${env.DOCKER_CONFIG}/config.json`, JSON.stringify({ auths }));
    const before = asked;
    await clip.ok('cache', 'prune', '--to', '0', '--mounted');
    expect((await clip.run(['mount', clip.path('honest.clip'), place], { env })).code).toBe(0);
    expect((await readFile(`${place}/large`)).length).toBeGreaterThan(0); // from the registry, after the mirror
    await clip.ok('umount', place);
    expect(asked).toBeGreaterThan(before);
    expect(new Set(got)).toEqual(new Set(expected));
  }
});

test('a registry’s name that looks like another one to who finds logins is refused', async () => {
  // A plugin of the kubelet that has logins for Amazon's registries, and says when it is asked.
  const plugins = clip.path('plugins');
  mkdirSync(plugins);
  const log = clip.path('asked');
  writeFileSync(log, '');
  writeFileSync(
    `${plugins}/ecr`,
    `#!/bin/sh\ncat >> ${log}\necho '{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderResponse","auth":{"*.dkr.ecr.*.amazonaws.com":{"username":"AWS","password":"geheim"}}}'\n`,
  );
  chmodSync(`${plugins}/ecr`, 0o755);
  const config = clip.path('plugins.yaml');
  writeFileSync(
    config,
    `{apiVersion: kubelet.config.k8s.io/v1, kind: CredentialProviderConfig, providers: [{name: ecr, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: ["*.dkr.ecr.*.amazonaws.com"], defaultCacheDuration: 0s}]}`,
  );
  const flags = ['--credential-provider-config', config, '--credential-provider-bin-dir', plugins];
  const before = asked;
  got.length = 0;
  // A host without dots, and then a path, is as many labels as the plugin's pattern has.
  const host = theirHost().replace('127.0.0.1', 'localhost');
  for (const place of [
    { registry: `${host}/1.dkr.ecr.eu.amazonaws.com`, repository: 'app' },
    { registry: '../../../../tmp', repository: 'app' },
    { registry: `${host}/@`, repository: 'app' },
    { registry: `user@${host}`, repository: 'app' },
    { registry: `${host}\n`, repository: 'app' },
    { registry: `${host}#`, repository: 'app' },
    { registry: host, repository: '../../x' },
    { registry: host, repository: 'app?ns=x' },
    { registry: host, repository: 'App' },
  ]) {
    const archive = archiveOf(place, 'like.clip');
    const ran = await clip.run(['mount', '--clip', archive, '--at', await clip.place('like'), ...flags]);
    expect([place, ran.code, ran.stderr]).toEqual([
      place,
      EXIT_CODES.BAD_FORMAT,
      expect.stringMatching(/^clipctl: .*like\.clip: section image at byte 0: .* is no (host|repository)\n/),
    ]);
    for (const args of [
      ['verify', archive],
      ['push', archive],
      ['ls', archive, '/'],
    ]) {
      expect([place, args[0], (await clip.run([...args, ...(args[0] === 'ls' ? [] : flags)])).code]).toEqual([
        place,
        args[0],
        EXIT_CODES.BAD_FORMAT,
      ]);
    }
  }
  expect([readFileSync(log, 'utf8'), asked - before, got]).toEqual(['', 0, []]);
});
