import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { ArchiveContents } from '../../src/archive/index.js';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { archiveTag, openArtifacts, openImageSource } from '../../src/oci/index.js';
import { Clipctl } from '../support/clipctl.js';
import { forgeries, layerToForge, RULES, readContents, sealed } from '../support/forged.js';
import { layerLike } from '../support/gzip.js';
import { type TestImage, writeImage } from '../support/images.js';
import { sha256Of } from '../support/mounted.js';
import { run } from '../support/processes.js';
import { type RegistryProxy, startProxy } from '../support/proxy.js';
import { LOGIN, type RegistryOptions, startRegistry, type TestRegistry } from '../support/registry.js';
import { file, tar } from '../support/tar.js';

const login = ['--creds', `${LOGIN.username}:${LOGIN.password}`];
let image: TestImage;
beforeAll(() => {
  image = writeImage([tar(file('a', layerLike(4_000_000))), tar(file('b', 'second'))]);
});
afterAll(() => image.remove());

describe.each<[string, RegistryOptions]>([
  ['without a login', {}],
  ['with htpasswd', { auth: 'basic' }],
  ['with tokens', { auth: 'token' }],
])('a registry %s', (_, options) => {
  let clip: Clipctl;
  let registry: TestRegistry;
  let proxy: RegistryProxy;
  const ref = (): string => `${proxy.host}/team/app:1`;
  const creds = (): string[] => (options.auth === undefined ? [] : login);
  beforeAll(async () => {
    clip = await Clipctl.create();
    registry = await startRegistry(options);
    await registry.push(image.reference, 'team/app:1');
    proxy = await startProxy({ upstream: registry.url });
  });
  afterAll(async () => {
    await clip?.close();
    await proxy?.stop();
    await registry?.stop();
  });

  test('keeps an archive beside its image: pushed, found, pulled, mounted', async () => {
    const out = clip.path('made.clip');
    const made = await clip.json('index', '--image', ref(), '--out', out, '--push', ...creds());
    const { manifestDigest } = made as { manifestDigest: string };
    expect(made).toMatchObject({
      pushed: { changed: true, reference: `${proxy.host}/team/app:${archiveTag(manifestDigest)}` },
    });

    // The second time nothing changes.
    proxy.reset();
    expect(await clip.json('push', '--clip', out, ...creds())).toMatchObject({ changed: false });
    expect(proxy.requests.every(({ method }) => method === 'GET' || method === 'HEAD')).toBe(true);

    const pulled = clip.path('pulled.clip');
    await clip.ok('pull', ref(), '--out', pulled, ...creds());
    expect(readFileSync(pulled).equals(readFileSync(out))).toBe(true);

    // Another tool sees an artifact with our type and the image as its subject.
    const url = `docker://${registry.host}/team/app:${archiveTag(manifestDigest)}`;
    const raw = await run('skopeo', [
      'inspect',
      '--raw',
      '--tls-verify=false',
      ...(options.auth === undefined ? [] : ['--creds', login[1]!]),
      url,
    ]);
    expect(JSON.parse(raw)).toMatchObject({
      artifactType: 'application/vnd.clipfs.archive.v1',
      subject: { digest: manifestDigest },
    });

    // A node that has only the reference: no layer is read to index it.
    proxy.reset();
    const place = await clip.place('m');
    await clip.ok('mount', '--image', ref(), '--at', place, '--no-prefetch', ...creds());
    const paths = proxy.requests.filter(({ status }) => status === 200 || status === 206).map(({ path }) => path);
    const source = openImageSource(image.reference);
    const { layers } = await source.resolve();
    await source.close();
    expect(paths.filter((path) => layers.some(({ digest }) => path.includes(digest)))).toEqual([]);
    // The image's manifest, the artifact's with the image's config in it, the archive, and a range of the layer.
    expect(paths.length).toBeLessThanOrEqual(4);
    // Not synchronously: the proxy answers in this process.
    expect(await readFile(`${place}/b`, 'utf8')).toBe('second');
    await clip.ok('umount', place);
  });

  test('takes at most ten requests for a push, and an upload that breaks is begun anew', async () => {
    const other = writeImage([tar(file('other', layerLike(3_000_000, 5)))]);
    try {
      for (const [i, fault] of [
        null,
        { refuse: true },
        { respond: { status: 503 } },
        { respond: { status: 413 } },
      ].entries()) {
        await registry.push(other.reference, `team/other${i}:1`);
        const out = clip.path(`other${i}.clip`);
        await clip.ok('index', '--image', `${proxy.host}/team/other${i}:1`, '--out', out, ...creds());
        proxy.reset();
        let broken = 0;
        proxy.fault = (request) =>
          request.method === 'PUT' && request.path.includes('/uploads/') && broken++ === 0 ? fault : null;
        await clip.ok('push', '--clip', out, ...creds());
        proxy.fault = null;
        if (fault === null) expect(proxy.requests.length).toBeLessThanOrEqual(10);
        await clip.ok('pull', `${proxy.host}/team/other${i}:1`, '--out', clip.path('again.clip'), ...creds());
        expect(readFileSync(clip.path('again.clip')).equals(readFileSync(out))).toBe(true);
      }
    } finally {
      other.remove();
    }
  });
});

test('a node that has only the reference needs three requests more than one that has the archive', async () => {
  const registry = await startRegistry();
  const proxy = await startProxy({ upstream: registry.url });
  const ref = `${proxy.host}/team/app:1`;
  await registry.push(image.reference, 'team/app:1');
  const out = path.join(mkdtempSync(path.join(tmpdir(), 'clip-trips-')), 'a.clip');
  try {
    const requestsOf = async (...args: string[]): Promise<string[]> => {
      const node = await Clipctl.create();
      try {
        const place = await node.place('m');
        proxy.reset();
        await node.ok('mount', ...args, '--at', place, '--no-prefetch');
        expect(await readFile(`${place}/b`, 'utf8')).toBe('second');
        return proxy.requests.map(({ method, path }) => `${method} ${path}`);
      } finally {
        await node.close();
      }
    };
    const maker = await Clipctl.create();
    await maker.ok('index', '--image', ref, '--out', out, '--push');
    await maker.close();
    const withArchive = await requestsOf('--clip', out);
    const withReference = await requestsOf('--image', ref);
    expect(withArchive.length).toBeGreaterThan(0);
    expect(withReference.length - withArchive.length, withReference.join('\n')).toBeLessThanOrEqual(3);
  } finally {
    rmSync(path.dirname(out), { recursive: true, force: true });
    await proxy.stop();
    await registry.stop();
  }
});

describe('archives in another place than the image', () => {
  let clip: Clipctl;
  let [images, archives]: TestRegistry[] = [];
  let proxy: RegistryProxy;
  const out = (): string => clip.path('apart.clip');
  beforeAll(async () => {
    clip = await Clipctl.create();
    images = await startRegistry();
    archives = await startRegistry();
    proxy = await startProxy({ upstream: archives.url });
    await images.push(image.reference, 'team/app:1');
    await clip.ok('index', '--image', `${images.host}/team/app:1`, '--out', out());
  });
  afterAll(async () => {
    await clip?.close();
    await proxy?.stop();
    await Promise.all([images?.stop(), archives?.stop()]);
  });

  test.each([
    ['a repository of another registry', () => [`${proxy.host}/clip/indexes`, `${proxy.host}/clip/indexes`]],
    ['the same repository in another registry', () => [`${proxy.host}/team/app`, proxy.host]],
  ])('%s: pushed, once, and found with --index-source', async (_, places) => {
    const [to, source] = places() as [string, string];
    expect(await clip.json('push', '--clip', out(), to)).toMatchObject({ changed: true });
    expect(await clip.json('push', '--clip', out(), to)).toMatchObject({ changed: false });
    const node = await Clipctl.create();
    try {
      const ref = `${images!.host}/team/app:1`;
      proxy.reset();
      const place = await node.place('m');
      await node.ok('mount', '--image', ref, '--index-source', source, '--at', place, '--no-prefetch');
      expect(await readFile(`${place}/b`, 'utf8')).toBe('second');
      expect(proxy.requests.some(({ path, status }) => path.includes('/blobs/') && status === 200)).toBe(true);
      await node.ok('pull', ref, '--out', node.path('x.clip'), '--index-source', source);
      expect(readFileSync(node.path('x.clip')).equals(readFileSync(out()))).toBe(true);
      // By the environment, and for every command that takes an image.
      await node.ok('archives', 'prune');
      const ran = await node.run(['ls', '--image', ref, '--pull', 'always'], { env: { CLIP_INDEX_SOURCE: source } });
      expect(ran).toMatchObject({ code: 0, stdout: expect.stringMatching(/^b$/m) });
    } finally {
      await node.close();
    }
  });

  test('an index source that has none, or is away, costs an index build and a note at most', async () => {
    for (const source of [`${proxy.host}/nothing/here`, '127.0.0.1:9/no/registry']) {
      const node = await Clipctl.create();
      try {
        const ran = await node.run(['ls', '--image', `${images!.host}/team/app:1`, '--index-source', source]);
        expect(ran).toMatchObject({ code: 0, stdout: expect.stringMatching(/^b$/m) });
        expect(/indexed now/.test(ran.stderr)).toBe(source.includes(':9/'));
      } finally {
        await node.close();
      }
    }
  });

  test('a login for the image is not sent to the index source', async () => {
    const node = await Clipctl.create();
    const guarded = await startRegistry({ auth: 'basic' });
    const watched = await startProxy({ upstream: archives!.url });
    try {
      await guarded.push(image.reference, 'team/app:1');
      await node.ok('ls', '--image', `${guarded.host}/team/app:1`, '--index-source', watched.host, ...login);
      expect(watched.requests.length).toBeGreaterThan(0);
      expect(watched.requests.filter(({ authorization }) => authorization !== null)).toEqual([]);
    } finally {
      await node.close();
      await watched.stop();
      await guarded.stop();
    }
  });
});

describe.each<[string, RegistryOptions]>([
  ['without a login', {}],
  ['with tokens', { auth: 'token' }],
])('in a registry %s', (_, options) => {
  test('an archive that another repository has is taken over, not uploaded', async () => {
    const clip = await Clipctl.create();
    const registry = await startRegistry(options);
    const proxy = await startProxy({ upstream: registry.url });
    const creds = options.auth === undefined ? [] : login;
    try {
      for (const name of ['one:1', 'two:1']) await registry.push(image.reference, name);
      const out = clip.path('a.clip');
      await clip.ok('index', '--image', `${proxy.host}/one:1`, '--out', out, '--push', ...creds);
      proxy.reset();
      await clip.ok('push', '--clip', out, `${proxy.host}/two`, ...creds);
      expect(proxy.requests.filter(({ method, path }) => method === 'PUT' && path.includes('/uploads/'))).toEqual([]);
      const pulled = clip.path('b.clip');
      await clip.ok('pull', `${proxy.host}/two:1`, '--out', pulled, ...creds);
      // It names the repository where it was found.
      expect(await clip.json('inspect', '--clip', pulled)).toMatchObject({ repository: 'two' });
    } finally {
      await clip.close();
      await proxy.stop();
      await registry.stop();
    }
  });
});

// Attack: whoever may write to another repository has the registry serve an archive under this image's tag.
test('an archive of another image is refused, and the image is indexed instead', async () => {
  const clip = await Clipctl.create();
  const registry = await startRegistry();
  const other = writeImage([tar(file('evil', 'evil'))]);
  try {
    await registry.push(image.reference, 'a:1');
    await registry.push(other.reference, 'b:1');
    const [a, b] = [clip.path('a.clip'), clip.path('b.clip')];
    const made = (await clip.json('index', '--image', `${registry.host}/a:1`, '--out', a, '--push')) as {
      manifestDigest: string;
    };
    await clip.ok('index', '--image', `${registry.host}/b:1`, '--out', b);
    // The artifact's blob is replaced, its manifest too: consistent in itself.
    const artifacts = await openArtifacts(
      { registry: registry.host, repository: 'a' },
      { credentials: null },
      { push: true },
    );
    await artifacts.push(readFileSync(b), made.manifestDigest);
    await artifacts.close();
    const pulled = await clip.run(['pull', `${registry.host}/a:1`, '--out', clip.path('x.clip')]);
    expect(pulled).toMatchObject({
      code: EXIT_CODES.DIGEST_MISMATCH,
      stderr: expect.stringMatching(/is not of .*: its manifest differs/),
    });
    const mounted = await clip.run(['ls', '--image', `${registry.host}/a:1`]);
    expect(mounted).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^a$/m),
      stderr: expect.stringMatching(/indexed now/),
    });
  } finally {
    other.remove();
    await clip.close();
    await registry.stop();
  }
});

describe('two tenants with one image', () => {
  let clip: Clipctl;
  let registry: TestRegistry;
  let proxy: RegistryProxy;
  let same: TestImage;
  let manifestDigest: string;
  const at = (repository: string): string => `${proxy.host}/${repository}:1`;
  /** Whoever may push to a repository stores an archive beside the image there. */
  const keep = async (repository: string, archive: Uint8Array): Promise<void> => {
    const artifacts = await openArtifacts({ registry: proxy.host, repository }, { credentials: null }, { push: true });
    await artifacts.push(archive, manifestDigest);
    await artifacts.close();
  };
  const mode = async (reference: string, ...flags: string[]): Promise<string> =>
    (await clip.ok('ls', '-l', '--image', reference, ...flags, '/bin/tool')).stdout.split(' ')[0]!;
  let honest: ArchiveContents;
  const forged = (): Uint8Array => {
    const found = forgeries(honest, readFileSync(same.layout.blobPath(honest.image.layers[0]!.digest)));
    return sealed(found.find(({ name }) => name === 'a set-uid bit in the tree')!.contents);
  };

  beforeAll(async () => {
    clip = await Clipctl.create();
    registry = await startRegistry();
    proxy = await startProxy({ upstream: registry.url });
    same = writeImage([layerToForge()]);
    for (const repository of ['lying/app', 'honest/app', 'mirror/app']) {
      await registry.push(same.reference, `${repository}:1`);
    }
    const made = await clip.json<{ manifestDigest: string }>(
      'index',
      '--image',
      at('lying/app'),
      '--out',
      clip.path('honest.clip'),
    );
    manifestDigest = made.manifestDigest;
    honest = readContents(clip.path('honest.clip'));
  });
  afterAll(async () => {
    same.remove();
    await clip.close();
    await proxy.stop();
    await registry.stop();
  });

  // Attack: the archive that a tenant stored beside the image in their own repository served everybody who asked for that manifest.
  test('the archive of one repository, and its place, are nothing to those who name another', async () => {
    await keep('lying/app', forged());
    expect(await mode(at('lying/app'))).toBe('-rwsr-xr-x');
    expect(await mode(at('honest/app'))).toBe('-rwxr-xr-x');
    proxy.reset();
    const place = await clip.place('honest');
    await clip.ok('mount', '--image', at('honest/app'), '--at', place);
    expect(await readFile(`${place}/etc/sudoers`, 'utf8')).toBe(RULES);
    await clip.ok('umount', place);
    expect(proxy.requests.filter(({ path }) => !path.startsWith('/v2/honest/app/') && path !== '/v2/')).toEqual([]);
    expect(await clip.json<unknown[]>('archives', 'ls')).toHaveLength(2);
  });

  test('an archive that was mirrored with its image is read from the mirror', async () => {
    await keep('mirror/app', readFileSync(clip.path('honest.clip')));
    const own = await Clipctl.create();
    try {
      proxy.reset();
      const place = await own.place('m');
      const mounted = await own.ok('mount', '--image', at('mirror/app'), '--at', place, '--no-prefetch');
      expect(mounted.stderr).not.toMatch(/indexed now/);
      expect(await readFile(`${place}/etc/sudoers`, 'utf8')).toBe(RULES);
      await own.ok('umount', place);
      const blobs = proxy.requests.filter(({ path }) => path.includes(honest.image.layers[0]!.digest));
      expect(blobs.length).toBeGreaterThan(0);
      expect(proxy.requests.filter(({ path }) => !path.startsWith('/v2/mirror/app/') && path !== '/v2/')).toEqual([]);
      expect(blobs.every(({ range }) => range !== null)).toBe(true);
      const inspected = await own.json<{ reference: string }>('inspect', '--image', at('mirror/app'));
      expect(inspected.reference).toBe(at('mirror/app'));
    } finally {
      await own.close();
    }
  });

  // Attack: an archive that was in the store already was used whatever digest was pinned.
  test('a pinned archive is that one, whatever is stored', async () => {
    const digestOf = (bytes: Uint8Array): string => `sha256:${sha256Of(bytes)}`;
    expect(await mode(at('lying/app'))).toBe('-rwsr-xr-x');
    const pin = digestOf(readFileSync(clip.path('honest.clip')));
    const refused = await clip.run(['ls', '--image', at('lying/app'), '--index-digest', pin]);
    expect(refused).toMatchObject({
      code: EXIT_CODES.NOT_FOUND,
      stderr: expect.stringMatching(/the registry has no archive sha256:/),
    });
    await keep('lying/app', readFileSync(clip.path('honest.clip')));
    expect(await mode(at('lying/app'), '--index-digest', pin)).toBe('-rwxr-xr-x');
    expect(await mode(at('lying/app'), '--index-digest', digestOf(forged()))).toBe('-rwsr-xr-x');
  });
});
