import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Clipctl } from '../support/clipctl.js';
import { layerToForge, readContents, sealed } from '../support/forged.js';
import { type TestImage, writeImage } from '../support/images.js';
import { file, tar } from '../support/tar.js';

// Attack: the author of an archive, of a layout or of a registry leads root's clip to a file or a host that they cannot read, and reads
// in an error or in the log what is there (docs/security.md, "What errors say").

const WORD = 'hunter2';
const SECRETS = {
  text: Buffer.from(`root:${WORD}:0:0:root:/root:/bin/bash\n${'x'.repeat(3000)}`),
  json: Buffer.from(`{"schemaVersion": "${WORD}", "password": "${WORD}"}`),
  brokenJson: Buffer.from(`${WORD} {"a": 1}`),
  gzip: gzipSync(Buffer.from(`${WORD}\n`.repeat(100)), { level: 0 }),
  // Its first bytes are the secret in any other form.
  binary: Buffer.concat([Buffer.from([0, 1]), Buffer.from(WORD), Buffer.alloc(1000, 7)]),
};

let clip: Clipctl;
let image: TestImage;
let server: Server;
let answer: Buffer;
let host: string;

beforeAll(async () => {
  clip = await Clipctl.create();
  image = writeImage([layerToForge()]);
  await clip.ok('index', '--image', image.reference, '--out', clip.path('honest.clip'));
  // A host that is no registry. Its errors have the form of a registry's.
  server = createServer((request, response) => {
    const failed = request.url?.includes('/blobs/') === true;
    response.writeHead(failed ? 400 : 200, { 'content-type': 'application/vnd.oci.image.manifest.v1+json' });
    response.end(answer);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(async () => {
  server.closeAllConnections();
  server.close();
  image.remove();
  await clip.close();
});

function expectNothingOf(where: string, text: string): void {
  for (const form of [
    WORD,
    WORD.slice(0, 4),
    Buffer.from(WORD).toString('hex').slice(0, 8),
    Buffer.from(WORD).toString('base64'),
  ]) {
    expect([where, text.includes(form)]).toEqual([where, false]);
  }
}

test.each(Object.keys(SECRETS) as (keyof typeof SECRETS)[])('nothing of a file of %s is told', async (name) => {
  const secret = clip.path(`${name}.file`);
  writeFileSync(secret, SECRETS[name], { mode: 0o600 });
  const inTar = clip.path(`${name}.tar`);
  writeFileSync(
    inTar,
    tar(file('manifest.json', SECRETS[name]), file('oci-layout', SECRETS[name]), file('index.json', SECRETS[name])),
  );
  const layout = clip.path(`${name}.layout`);
  mkdirSync(layout);
  writeFileSync(`${layout}/oci-layout`, '{"imageLayoutVersion":"1.0.0"}');
  writeFileSync(`${layout}/index.json`, SECRETS[name]);
  const places = [secret, inTar].flatMap((path) => [`docker-archive:${path}`, `oci-archive:${path}`]);
  const honest = readContents(clip.path('honest.clip'));
  const forged = clip.path('forged.clip');
  const place = await clip.place('m');
  for (const repository of [...places, layout]) {
    writeFileSync(forged, sealed({ ...honest, image: { ...honest.image, registry: '', repository } }));
    await clip.ok('mount', '--clip', forged, '--at', place);
    await expect(readFile(`${place}/etc/sudoers`)).rejects.toThrow('EIO');
    await clip.ok('umount', place);
    const verified = await clip.run(['verify', '--clip', forged, '--json']);
    expect(verified.code).not.toBe(0);
    expectNothingOf(`verify ${repository}`, verified.stdout + verified.stderr);
    const reference = repository.startsWith('/') ? `oci:${repository}` : repository;
    const indexed = await clip.run(['index', '--image', reference, '--out', clip.path('i.clip')]);
    expect(indexed.code).not.toBe(0);
    expectNothingOf(`index ${reference}`, indexed.stdout + indexed.stderr);
  }
  answer = SECRETS[name];
  const asked = await clip.run(['index', '--image', `${host}/a:1`, '--out', clip.path('i.clip')]);
  expect(asked.code).not.toBe(0);
  expectNothingOf('a manifest', asked.stdout + asked.stderr);
  expectNothingOf('clipd.log', readFileSync(clip.path('root/clipd.log'), 'utf8'));
});

test('the words of a host to which a registry redirects are not told, those of the registry are', async () => {
  answer = Buffer.from(JSON.stringify({ errors: [{ code: 'X', message: WORD }] }));
  const registry = createServer((_, response) => {
    response.writeHead(307, { location: `http://localhost:${host.split(':')[1]}/v2/a/blobs/x` }).end();
  });
  await new Promise<void>((resolve) => registry.listen(0, '127.0.0.1', resolve));
  try {
    const port = (registry.address() as AddressInfo).port;
    const led = await clip.run(['index', '--image', `127.0.0.1:${port}/a:1`, '--out', clip.path('i.clip')]);
    expect([led.code, led.stderr]).toEqual([9, expect.stringMatching(/answered 400/)]);
    expectNothingOf('a redirect', led.stdout + led.stderr);
  } finally {
    registry.closeAllConnections();
    registry.close();
  }
});
