import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { ArchiveFile } from '../../src/check/index.js';
import { packProfile, type RecordedProfile, startName } from '../../src/lazy/index.js';
import { openArtifacts, profileTag } from '../../src/oci/index.js';
import type { PrefetchState } from '../../src/wire/index.js';
import { Clipctl } from '../support/clipctl.js';
import { layerLike } from '../support/gzip.js';
import { writeImage } from '../support/images.js';
import { eventually } from '../support/mounted.js';
import { run } from '../support/processes.js';
import { type RegistryProxy, startProxy } from '../support/proxy.js';
import { LOGIN, type RegistryOptions, startRegistry, type TestRegistry } from '../support/registry.js';
import { file, tar } from '../support/tar.js';

// Profiles of starts that are attached to their image. Real registry (without the referrers API), real mounts. Nothing here may read a
// mount synchronously: the proxy that it waits for is in this process.

const FIRST = layerLike(700_000, 1);
const PAD = layerLike(30_000_000, 3);

describe.each<[string, RegistryOptions]>([
  ['without a login', {}],
  ['with tokens', { auth: 'token' }],
])('in a registry %s', (_, options) => {
  const creds = options.auth === undefined ? [] : ['--creds', `${LOGIN.username}:${LOGIN.password}`];
  let registry: TestRegistry;
  let proxy: RegistryProxy;
  let indexer: Clipctl;
  let archive: string;
  let manifestDigest: string;
  let tag: string;
  const machines: Clipctl[] = [];

  beforeAll(async () => {
    [registry, indexer] = await Promise.all([startRegistry(options), Clipctl.create()]);
    proxy = await startProxy({ upstream: registry.url });
    const parts = [tar(file('first', FIRST), file('pad', PAD))];
    const image = writeImage(parts, { config: { Cmd: ['/serve'] } });
    await registry.push(image.reference, 'team/app:1');
    image.remove();
    archive = indexer.path('app.clip');
    await indexer.ok('index', '--image', `${proxy.host}/team/app:1`, '--out', archive, ...creds);
    const name = startName(opened().image);
    manifestDigest = name.manifestDigest;
    tag = profileTag(manifestDigest, name.command.slice(0, 12));
  }, 120_000);
  afterEach(async () => {
    proxy.fault = null;
    for (const machine of machines.splice(0)) await machine.close();
  });
  afterAll(async () => {
    await indexer?.close();
    await proxy?.stop();
    await registry?.stop();
  });

  function opened(path = archive): ArchiveFile['archive'] {
    const file = ArchiveFile.open(path);
    file.close();
    return file.archive;
  }

  /** With an empty disk. */
  async function machine(): Promise<Clipctl> {
    const clip = await Clipctl.create();
    machines.push(clip);
    await clip.place('mnt');
    return clip;
  }
  const mount = (clip: Clipctl, ...flags: string[]): Promise<unknown> =>
    clip.ok('mount', '--clip', archive, '--at', clip.path('mnt'), ...creds, ...flags);
  const umount = (clip: Clipctl): Promise<unknown> => clip.ok('umount', clip.path('mnt'));
  const start = async (clip: Clipctl): Promise<void> => {
    expect(await readFile(join(clip.path('mnt'), 'first'))).toEqual(Buffer.from(FIRST));
  };
  const prefetches = async (clip: Clipctl): Promise<readonly PrefetchState[]> =>
    (await clip.json<{ prefetches: PrefetchState[] }[]>('ps'))[0]!.prefetches;
  const counters = async (clip: Clipctl): Promise<Readonly<Record<string, number>>> => (await clip.stats()).counters;
  const asked = (): string[] =>
    proxy.requests
      .map(({ path }) => path)
      .filter((path) => path.includes('clip-profile') || path.includes('/referrers/'));
  const startsOf = async (clip: Clipctl): Promise<number> =>
    (await clip.json<{ starts: number }[]>('profile', 'ls'))[0]!.starts;
  const inspect = async (reference: string): Promise<unknown> => {
    const url = `docker://${registry.host}/team/app:${reference}`;
    return JSON.parse(await run('skopeo', ['inspect', '--raw', '--tls-verify=false', ...creds, url]));
  };
  const push = (clip: Clipctl): Promise<unknown> => clip.json('push', archive, '--profiles', ...creds);

  test('a pushed profile is found by a machine that knows none, and is the base of the next one', async () => {
    const first = await machine();
    const none = await first.run(['push', archive, '--profiles', ...creds]);
    expect([none.code, none.stdout]).toEqual([0, expect.stringContaining('profiles of starts: 0, 0 of them new')]);
    expect(none.stderr).toContain('no profile of this image is kept here');

    proxy.reset();
    await mount(first);
    await eventually(async () => (await counters(first)).profilesNotFound === 1);
    await start(first);
    await umount(first);
    // A server asks once.
    const before = asked().length;
    expect(before).toBeGreaterThan(0);
    expect(await push(first)).toMatchObject({ profiles: { profiles: 1, changed: 1 } });
    expect(await push(first)).toMatchObject({ profiles: { profiles: 1, changed: 0 } });

    // Another tool sees an artifact of the image, under its tag and in the list of referrers.
    const artifactType = 'application/vnd.clipfs.profile.v1';
    expect(await inspect(tag)).toMatchObject({ artifactType, subject: { digest: manifestDigest } });
    const list = (await inspect(manifestDigest.replace(':', '-'))) as { manifests: unknown[] };
    expect(list.manifests).toContainEqual(expect.objectContaining({ artifactType }));

    proxy.reset();
    const second = await machine();
    await mount(second);
    // No reader was there yet.
    await eventually(async () =>
      (await prefetches(second)).some(({ from, state }) => from === 'registry' && state === 'done'),
    );
    const answered = proxy.requests.filter(({ path, status }) => path.includes('clip-profile') && status === 200);
    expect(answered.length).toBe(1);
    expect(asked().filter((path) => path.includes('/referrers/'))).toEqual([]);
    await start(second);
    expect(await counters(second)).toMatchObject({ profilesFoundAttached: 1, profilesNotFound: 0, spanMisses: 0 });
    await umount(second);
    expect(await startsOf(second)).toBe(2);
    expect(await push(second)).toMatchObject({ profiles: { profiles: 1, changed: 1 } });
    // The first one's single start does not take the place of two.
    expect(await push(first)).toMatchObject({ profiles: { profiles: 1, changed: 0 } });

    // Its own from now on.
    proxy.reset();
    await mount(second);
    expect(await prefetches(second)).toMatchObject([{ from: 'kept' }]);
    expect(asked()).toEqual([]);
  }, 120_000);

  test('it is found by the list of referrers where the tag was not copied', async () => {
    const clip = await machine();
    proxy.fault = ({ path }) => (path.includes('clip-profile') ? { respond: { status: 404 } } : null);
    await mount(clip);
    await eventually(async () => (await prefetches(clip)).some(({ from }) => from === 'registry'));
  }, 60_000);

  test('a registry that does not answer delays neither the mount nor its readers', async () => {
    const clip = await machine();
    proxy.reset();
    proxy.fault = ({ path }) => (path.includes('clip-profile') ? { delayMs: 60_000 } : null);
    await mount(clip);
    await start(clip);
    await umount(clip);
    expect(proxy.requests.filter(({ path, status }) => path.includes('clip-profile') && status === 200)).toEqual([]);
    // What was given up is not asked for again.
    await eventually(async () => (await counters(clip)).profileLookupsFailed === 1);
  }, 60_000);

  test('with --no-profile-sharing, --no-prefetch or all bytes on the disk the registry is not asked', async () => {
    for (const flag of ['--no-profile-sharing', '--no-prefetch']) {
      const clip = await machine();
      proxy.reset();
      await mount(clip, flag);
      await start(clip);
      expect(asked()).toEqual([]);
    }
    const clip = await machine();
    await mount(clip, '--no-profile-sharing', '--fill');
    await eventually(async () =>
      (await prefetches(clip)).some(({ what, state }) => what === 'image' && state === 'done'),
    );
    await umount(clip);
    await clip.stop();
    proxy.reset();
    await mount(clip);
    await eventually(async () => (await counters(clip)).profilesNotFound === 1);
    expect(proxy.requests).toEqual([]);
  }, 60_000);

  test('optimize takes it when nothing else is known', async () => {
    const clip = await machine();
    const out = clip.path('optimized.clip');
    await clip.ok('optimize', archive, '--out', out, ...creds);
    expect(opened(out).profile!.source).toBe('recorded');
  }, 60_000);

  test('a hostile profile is refused, and the start goes on', async () => {
    const { image } = opened();
    const { layers } = image;
    const valid: RecordedProfile = {
      format: 'clip profile 1',
      manifestDigest,
      layers: layers.map(({ digest }) => digest),
      ranges: [{ layer: 0, start: 0, end: layers[0]!.uncompressedSize }],
    };
    const credentials = options.auth === undefined ? null : LOGIN;
    const place = { registry: proxy.host, repository: 'team/app' };
    const attach = async (bytes: Uint8Array): Promise<void> => {
      const artifacts = await openArtifacts(place, { credentials }, { push: true });
      await artifacts.pushProfile(bytes, manifestDigest, startName(image).command.slice(0, 12), 99);
      await artifacts.close();
    };
    const json = (value: unknown): Uint8Array => packProfile(JSON.stringify(value));
    for (const [bytes, counter] of [
      [json({ ...valid, ranges: [{ layer: 0, start: 0, end: layers[0]!.uncompressedSize + 1 }] }), 'profilesRefused'],
      [json({ ...valid, manifestDigest: `sha256:${'0'.repeat(64)}` }), 'profilesRefused'],
      [Buffer.from(JSON.stringify(valid)), 'profilesRefused'],
      // A bomb: 100 MB of spaces in 100 KB.
      [packProfile(`${JSON.stringify(valid)}${' '.repeat(100_000_000)}`), 'profilesRefused'],
      // Too long, in the manifest itself and beside it.
      [layerLike(200_000, 5), 'profilesRefused'],
      [layerLike(700_000, 6), 'profileLookupsFailed'],
    ] as const) {
      await attach(bytes);
      const victim = await machine();
      await mount(victim);
      await eventually(async () => (await counters(victim))[counter] === 1);
      expect(await prefetches(victim)).not.toContainEqual(expect.objectContaining({ from: 'registry' }));
      await start(victim);
    }
    // One whose bytes are not those of its digest.
    await attach(json(valid));
    const forged = (await inspect(tag)) as { layers: { data: string }[]; mediaType: string };
    forged.layers[0]!.data = Buffer.from(json({ ...valid, starts: 1 })).toString('base64');
    const respond = { status: 200, headers: { 'content-type': forged.mediaType }, body: JSON.stringify(forged) };
    proxy.fault = ({ path }) => (path.includes('clip-profile') ? { respond } : null);
    const victim = await machine();
    await mount(victim);
    await eventually(async () => (await counters(victim)).profileLookupsFailed === 1);
    await start(victim);
  }, 180_000);
});
