import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { writeImage } from '../../test/support/images.js';
import { type Fault, type RegistryProxy, startProxy } from '../../test/support/proxy.js';
import { LOGIN, startRegistry, type TestRegistry } from '../../test/support/registry.js';
import { failure } from '../../test/support/sources.js';
import { file, tar } from '../../test/support/tar.js';
import { ARCHIVE_ARTIFACT, PROFILE_ARTIFACT } from './artifact-manifests.js';
import type { ArtifactRepository, PushedArchive } from './artifacts.js';
import { digestOf } from './digest.js';
import { openArtifacts, openImageSource } from './index.js';
import { MAX_LIST_BYTES, MAX_PAGES, nextTarget } from './referrers.js';

/*
 * Debian's registry keeps the artifacts. It has no referrers API, so the proxy before it answers that part, in pages. Tags of artifacts are
 * hidden: they are what a client finds first.
 */

const REPOSITORY = 'team/app';
const ARCHIVE = Buffer.from('an archive');
const COMMAND = 'c0ffee';

let registry: TestRegistry;
let proxy: RegistryProxy;
let manifestDigest: string;
let archive: PushedArchive;
let profiles: readonly PushedArchive[];
const opened: ArtifactRepository[] = [];

async function open(push = false): Promise<ArtifactRepository> {
  const artifacts = await openArtifacts(
    { registry: proxy.host, repository: REPOSITORY },
    { credentials: LOGIN },
    { push },
  );
  opened.push(artifacts);
  return artifacts;
}

beforeAll(async () => {
  registry = await startRegistry({ auth: 'basic' });
  proxy = await startProxy({ upstream: registry.url });
  const image = writeImage([tar(file('a', 'a'))], {});
  await registry.push(image.reference, `${REPOSITORY}:1`);
  image.remove();
  const source = openImageSource(`${proxy.host}/${REPOSITORY}:1`, { credentials: LOGIN });
  ({ manifestDigest } = await source.resolve());
  await source.close();
  const artifacts = await open(true);
  archive = await artifacts.push(ARCHIVE, manifestDigest);
  const pushed: PushedArchive[] = [];
  for (const starts of [1, 7, 3]) {
    pushed.push(await artifacts.pushProfile(Buffer.from(`profile of ${starts}`), manifestDigest, COMMAND, starts));
  }
  profiles = pushed;
  proxy.reset();
}, 60_000);
afterEach(async () => {
  proxy.fault = null;
  proxy.reset();
  for (const artifacts of opened.splice(0)) await artifacts.close();
});
afterAll(async () => {
  await proxy?.stop();
  await registry?.stop();
});

interface Page {
  readonly manifests: readonly object[];
  /** The Link header; default: the next page of the list, if there is one. */
  readonly link?: string;
  readonly padding?: number;
}

/** Has the proxy be a registry with the referrers API. Page n has the query `page=n`. */
function serve(pages: readonly Page[], headers: Readonly<Record<string, string>> = {}): void {
  proxy.fault = ({ path }): Fault | null => {
    if (/\.clip(-profile)?$/.test(path)) return { respond: { status: 404 } };
    if (!path.includes('/referrers/')) return null;
    const url = new URL(path, proxy.url);
    const n = Number(url.searchParams.get('page') ?? 0);
    const { manifests, link, padding = 0 } = pages[n % pages.length]!;
    const following = n + 1 < pages.length ? `<${url.pathname}?page=${n + 1}>; rel="next"` : undefined;
    const next = link ?? following;
    const list = { schemaVersion: 2, mediaType: 'application/vnd.oci.image.index.v1+json', manifests };
    const fields = { ...headers, ...(next === undefined ? {} : { link: next }) };
    return { respond: { status: 200, headers: fields, body: JSON.stringify(list) + ' '.repeat(padding) } };
  };
}
const entry = (artifactType: string, digest: string, annotations?: object): object => ({
  mediaType: 'application/vnd.oci.image.manifest.v1+json',
  artifactType,
  digest,
  size: 100,
  annotations,
});
const signature = (i: number): object =>
  entry('application/vnd.dev.cosign.v1', digestOf(Buffer.from(`signature ${i}`)));
const archiveEntry = (): object => entry(ARCHIVE_ARTIFACT, archive.digest);
const profileEntry = (i: number, starts: number): object =>
  entry(PROFILE_ARTIFACT, profiles[i]!.digest, {
    'org.clipfs.profile.command': COMMAND,
    'org.clipfs.profile.starts': String(starts),
  });
const pagesAsked = (): string[] =>
  proxy.requests.map(({ path }) => path).filter((path) => path.includes('/referrers/'));
const endpoint = (): string => `/v2/${REPOSITORY}/referrers/${manifestDigest}`;
const fetchArchive = async (): Promise<string | null> => {
  const bytes = await (await open()).fetch(manifestDigest);
  return bytes === null ? null : String(Buffer.from(bytes));
};

describe('a list of referrers in pages', () => {
  // Bug: Link was not followed, so an archive behind a page of signatures was not found.
  test.each([
    ['a registry that does not filter', {}],
    ['a registry that says it filters, and does not', { 'OCI-Filters-Applied': 'artifactType' }],
  ])('an archive on the last page is found: %s', async (_, headers) => {
    serve(
      [{ manifests: [1, 2, 3].map(signature) }, { manifests: [] }, { manifests: [signature(4), archiveEntry()] }],
      headers,
    );
    expect(await fetchArchive()).toBe(String(ARCHIVE));
    const [first, ...others] = pagesAsked();
    expect(first).toBe(`${endpoint()}?artifactType=${encodeURIComponent(ARCHIVE_ARTIFACT)}`);
    expect(others).toEqual([`${endpoint()}?page=1`, `${endpoint()}?page=2`]);
    // What is in no list is not guessed: signatures are not asked for.
    const fetched = proxy.requests.filter(({ path, status }) => path.includes('/manifests/sha256:') && status === 200);
    expect(fetched.map(({ path }) => path)).toEqual([`/v2/${REPOSITORY}/manifests/${archive.digest}`]);
  });

  test('no page is asked for behind the one that has it', async () => {
    serve([{ manifests: [archiveEntry()] }, { manifests: [] }]);
    expect(await fetchArchive()).toBe(String(ARCHIVE));
    expect(pagesAsked().length).toBe(1);
  });

  test('the profile of most starts is taken, whichever page it is on, and other commands count for nothing', async () => {
    const other = { 'org.clipfs.profile.command': 'beef', 'org.clipfs.profile.starts': '99' };
    const others = Array.from({ length: 40 }, (_, i) => entry(PROFILE_ARTIFACT, digestOf(Buffer.from(`${i}`)), other));
    serve([
      { manifests: [...others, profileEntry(0, 1)] },
      { manifests: [profileEntry(1, 7)] },
      { manifests: [profileEntry(2, 3)] },
    ]);
    const bytes = await (await open()).fetchProfile(manifestDigest, COMMAND, 1000);
    expect(String(Buffer.from(bytes!))).toBe('profile of 7');
    expect(pagesAsked().length).toBe(3);
  });

  test('an entry whose digest is none leads nowhere', async () => {
    serve([{ manifests: [entry(ARCHIVE_ARTIFACT, '../../other/manifests/1'), archiveEntry()] }]);
    expect(await fetchArchive()).toBe(String(ARCHIVE));
    expect(proxy.requests.filter(({ path }) => path.includes('other'))).toEqual([]);
  });

  test.each([
    ['a path', () => `<${endpoint()}?page=1>; rel="next"`],
    ['a query alone', () => '<?page=1>; rel=next'],
    ['a relative path', () => `<./${manifestDigest}?page=1>;REL=Next`],
    ['an encoded digest', () => `<${endpoint().replace('sha256:', 'sha256%3A')}?page=1>; rel="next"`],
    ['a URL', () => `<${proxy.url}${endpoint()}?page=1>; rel="next"`],
    ['a URL with the scheme before a proxy', () => `<https://${proxy.host}${endpoint()}?page=1>; rel="next"`],
    ['one link of several', () => `<${endpoint()}>; rel="first", <?page=1>; title="a, <b>; c"; rel="last next"`],
  ])('the next page may be named by %s', async (_, link) => {
    serve([{ manifests: [], link: link() }, { manifests: [archiveEntry()] }]);
    expect(await fetchArchive()).toBe(String(ARCHIVE));
    expect(pagesAsked().at(-1)).toBe(`${endpoint()}?page=1`);
  });
});

describe('a hostile list of referrers', () => {
  let server: Server;
  let elsewhere: string;
  let reached = 0;
  beforeAll(async () => {
    server = createServer((_, response) => {
      reached++;
      response.end('{}');
    });
    await new Promise<void>((resolve) => server.listen(0, 'localhost', resolve));
    elsewhere = `localhost:${(server.address() as AddressInfo).port}`;
  });
  afterAll(() => server?.close());

  // Attack: the next page lies at another host, which would get the login, or be a service of this machine.
  test.each([
    [
      'another host',
      () => `<http://${elsewhere}${endpoint()}?page=1>; rel="next"`,
      /at another host, http:\/\/localhost/,
    ],
    ['another host by a short form', () => `<//${elsewhere}${endpoint()}?page=1>; rel="next"`, /at another host/],
    ['a path that begins like a host', () => `<${proxy.url}//${elsewhere}/x>; rel="next"`, /at another path/],
    ['another repository', () => '</v2/other/app/referrers/sha256:00>; rel="next"', /at another path/],
    ['a file', () => '<file:///etc/passwd>; rel="next"', /at another host, file:/],
    ['no URL', () => '<http://[>; rel="next"', /not a URL/],
    ['a path that cannot be decoded', () => '</%ff%fe>; rel="next"', /not a URL/],
    ['itself', () => `<?${new URLSearchParams({ artifactType: ARCHIVE_ARTIFACT })}>; rel="next"`, /in a circle/],
  ])('that goes on at %s is refused', async (_, link, message) => {
    serve([{ manifests: [], link: link() }]);
    const error = await failure(fetchArchive());
    expect(error).toMatchObject({ code: 'NETWORK', message: expect.stringMatching(message) });
    expect(error.message).toContain(manifestDigest);
    expect(pagesAsked().length).toBe(1);
    expect(reached).toBe(0);
  });

  test('without an end is left after a number of pages', async () => {
    const pages = Array.from({ length: MAX_PAGES + 5 }, () => ({ manifests: [signature(1)] }));
    serve(pages);
    expect(await failure(fetchArchive())).toMatchObject({ code: 'LIMIT', message: expect.stringMatching(/32 pages/) });
    expect(pagesAsked().length).toBe(MAX_PAGES);
  });

  test('of long pages is left after a number of bytes', async () => {
    const padding = 4_000_000;
    serve(Array.from({ length: 10 }, () => ({ manifests: [], padding })));
    expect(await failure(fetchArchive())).toMatchObject({ code: 'LIMIT', message: expect.stringMatching(/bytes/) });
    expect(pagesAsked().length).toBe(Math.ceil(MAX_LIST_BYTES / padding));
  });
});

test.each<[string, string | null]>([
  ['<a>; rel=next', 'a'],
  ['<a>;rel="next"', 'a'],
  ['  <a>  ;  rel = "NEXT"', 'a'],
  ['<a>; rel="prev next"', 'a'],
  ['<a>; rel=prev, <b>; rel=next', 'b'],
  ['<a>; title="x\\", <c>; rel=next"; rel=prev, <b>; rel=next', 'b'],
  ['<a>; flag; rel=next', 'a'],
  ['<a,b;c>; rel=next', 'a,b;c'],
  // Only the first rel counts (RFC 8288 §3.3).
  ['<a>; rel=prev; rel=next', null],
  // Of another resource.
  ['<a>; rel=next; anchor="#x"', null],
  ['<a>', null],
  ['<a>; rel=nextpage', null],
  ['<a; rel=next', null],
  ['a; rel=next', null],
  ['<a>; rel="next', null],
  ['<a> junk, <b>; rel=next', null],
  ['', null],
])('the next page in %s', (header, target) => {
  expect(nextTarget(header)).toBe(target);
});

test('there is none in a long header that breaks off', () => {
  for (const header of [
    `${'<'.repeat(16_000)}>; rel=next`,
    `<a>${'; x="'.repeat(4_000)}`,
    `<a>${' '.repeat(16_000)}x`,
  ]) {
    expect(nextTarget(header)).toBe(null);
  }
});
