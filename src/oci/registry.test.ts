import { createHash, randomBytes } from 'node:crypto';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { LayoutBuilder, MEDIA } from '../../test/support/layout.js';
import { type Fault, type RegistryProxy, startProxy } from '../../test/support/proxy.js';
import { LOGIN, startRegistry, type TestRegistry } from '../../test/support/registry.js';
import { IDENTITY_TOKEN } from '../../test/support/token-server.js';
import { ClipError } from '../bytes/index.js';
import {
  captureAccess,
  type ImageSource,
  openImageSource,
  parsePlatform,
  parseReference,
  type SourceOptions,
  sourceForArchive,
} from './index.js';

const FAST = { baseMs: 1, maxMs: 5 };

async function collect(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** The error, which must be one a user may see: a ClipError of one line. */
async function failure(promise: Promise<unknown>): Promise<ClipError> {
  const error = await promise.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(ClipError);
  expect((error as ClipError).message).not.toContain('\n');
  return error as ClipError;
}

let layout: LayoutBuilder;
/** 3 MiB of noise and two small layers. */
let image: { digest: string; blob: Buffer };
const sources: ImageSource[] = [];

function open(reference: string, options: SourceOptions = {}): ImageSource {
  const source = openImageSource(reference, { credentials: null, retry: FAST, proxy: {}, ...options });
  sources.push(source);
  return source;
}

beforeAll(() => {
  layout = new LayoutBuilder();
  const big = layout.image([randomBytes(3 << 20), 'second', 'third'], { config: { Env: ['A=b'] } });
  const blobDigest = (JSON.parse(readFileSync(layout.blobPath(big.digest), 'utf8')) as { layers: { digest: string }[] })
    .layers[0]!.digest;
  image = { digest: blobDigest, blob: readFileSync(layout.blobPath(blobDigest)) };
  layout.tag(big, 'big');
  const platforms = [
    { ...layout.image(['amd64']), platform: { os: 'linux', architecture: 'amd64' } },
    {
      ...layout.image(['arm64'], { architecture: 'arm64' }),
      platform: { os: 'linux', architecture: 'arm64', variant: 'v8' },
    },
    {
      ...layout.image(['armv7'], { architecture: 'arm' }),
      platform: { os: 'linux', architecture: 'arm', variant: 'v7' },
    },
  ];
  const attestation = { ...layout.image(['provenance']), platform: { os: 'unknown', architecture: 'unknown' } };
  layout.tag(layout.index([attestation, ...platforms]), 'multi');
  layout.tag(layout.image(['docker']), 'docker');
});
afterEach(async () => {
  await Promise.all(sources.splice(0).map((source) => source.close()));
});
afterAll(() => layout.remove());

describe('a plain registry', () => {
  let registry: TestRegistry;
  let proxy: RegistryProxy;
  beforeAll(async () => {
    registry = await startRegistry();
    for (const tag of ['big', 'multi']) await registry.push(`oci:${layout.directory}:${tag}`, `a/b:${tag}`);
    await registry.push(`oci:${layout.directory}:docker`, 'a/b:docker', 'v2s2');
    proxy = await startProxy({ upstream: registry.url });
  });
  afterAll(async () => {
    await proxy?.stop();
    await registry?.stop();
  });
  afterEach(() => {
    proxy.fault = null;
    proxy.reset();
  });
  const through = (tag: string, options: SourceOptions = {}): ImageSource => open(`${proxy.host}/a/b:${tag}`, options);
  /** Faults for blob requests only: the first, the second, … */
  const blobFaults = (...faults: (Fault | null)[]): void => {
    let n = 0;
    proxy.fault = (request) => (request.path.includes('/blobs/') ? (faults[n++] ?? null) : null);
  };
  const read = (source: ImageSource, start: number, end: number): Promise<Uint8Array> =>
    source.fetchRange(image.digest, start, end, { size: image.blob.length });

  test('resolve gives what the image section wants, and the blobs are exact', async () => {
    const source = through('big');
    const resolved = await source.resolve();
    expect(resolved).toMatchObject({
      reference: `${proxy.host}/a/b:big`,
      registry: proxy.host,
      repository: 'a/b',
      platform: { os: 'linux', architecture: 'amd64' },
    });
    expect((resolved.config.config as { Env: string[] }).Env).toEqual(['A=b']);
    expect(resolved.layers.length).toBe(3);
    expect(resolved.layers[0]).toMatchObject({
      digest: image.digest,
      size: image.blob.length,
      mediaType: MEDIA.ociLayer,
    });

    expect((await collect(await source.fetchBlob(image.digest, { start: 0 }))).equals(image.blob)).toBe(true);
    for (const [start, end] of [
      [0, 1],
      [1, 2],
      [100_000, 300_001],
      [image.blob.length - 1, image.blob.length],
      [5, 5],
    ] as const) {
      const expected = image.blob.subarray(start, end);
      expect(Buffer.from(await read(source, start, end)).equals(expected)).toBe(true);
      expect((await collect(await source.fetchBlob(image.digest, { start, end }))).equals(expected)).toBe(true);
    }
    expect(
      (await collect(await source.fetchBlob(image.digest, { start: 3_000_000 }))).equals(
        image.blob.subarray(3_000_000),
      ),
    ).toBe(true);
    // To the byte: ranges as asked, nothing twice.
    const ranges = proxy.requests.filter((r) => r.path.endsWith(image.digest)).map((r) => r.range);
    expect(ranges.slice(0, 3)).toEqual([null, 'bytes=0-0', 'bytes=0-0']);
    expect(proxy.requests.every((r) => r.authorization === null)).toBe(true);
    await expect(read(source, 5, image.blob.length + 1)).rejects.toThrow(RangeError);
  });

  test('sixty-four ranges at once share sixteen connections', async () => {
    const source = through('big');
    await read(source, 0, 10);
    const before = proxy.connections;
    proxy.fault = () => ({ delayMs: 5 });
    const starts = Array.from({ length: 64 }, (_, i) => i * 40_000);
    const parts = await Promise.all(starts.map((start) => read(source, start, start + 1000)));
    parts.forEach((part, i) => {
      expect(Buffer.from(part).equals(image.blob.subarray(starts[i]!, starts[i]! + 1000))).toBe(true);
    });
    expect(proxy.connections - before).toBeLessThanOrEqual(16);
  });

  test('by digest, and from what an archive remembers', async () => {
    const resolved = await through('big').resolve();
    const same = await open(`${proxy.host}/a/b@${resolved.manifestDigest}`).resolve();
    expect(same.layers).toEqual(resolved.layers);
    const later = sourceForArchive(resolved, { credentials: null });
    sources.push(later);
    expect((await later.resolve()).manifestDigest).toBe(resolved.manifestDigest);
    expect((await read(later, 7, 9)).length).toBe(2);
  });

  test('Docker’s media types', async () => {
    const resolved = await through('docker').resolve();
    expect(resolved.layers[0]!.mediaType).toBe(MEDIA.dockerLayer);
  });

  test('platforms: the asked one, attestations skipped, a miss lists what there is, another single one is a warning', async () => {
    const source = through('multi');
    for (const name of ['linux/amd64', 'linux/arm64', 'linux/arm/v7']) {
      const resolved = await source.resolve({ platform: parsePlatform(name) });
      expect(`${resolved.platform.os}/${resolved.platform.architecture}`).toBe(name.split('/').slice(0, 2).join('/'));
    }
    const error = await failure(source.resolve({ platform: parsePlatform('linux/s390x') }));
    expect(error).toMatchObject({
      code: 'NO_PLATFORM',
      hint: '--platform takes one of: linux/amd64, linux/arm/v7, linux/arm64/v8',
    });
    const warnings: string[] = [];
    await through('big').resolve({ platform: parsePlatform('linux/arm64'), onWarning: (w) => warnings.push(w) });
    expect(warnings).toEqual([`${proxy.host}/a/b:big is an image for linux/amd64, not linux/arm64`]);
  });

  test('no such tag, repository, digest, blob', async () => {
    const missing = `sha256:${'0'.repeat(64)}`;
    expect(await failure(through('nope').resolve())).toMatchObject({
      code: 'NOT_FOUND',
      message: expect.stringContaining('a/b:nope'),
    });
    expect((await failure(through('nope').resolve())).hint).toBe('it has these tags: big, docker, multi');
    expect(await failure(open(`${proxy.host}/no/such`).resolve())).toMatchObject({
      code: 'NOT_FOUND',
      message: expect.stringContaining('no/such'),
    });
    expect(await failure(open(`${proxy.host}/a/b@${missing}`).resolve())).toMatchObject({ code: 'NOT_FOUND' });
    expect(await failure(through('big').fetchRange(missing, 0, 1))).toMatchObject({
      code: 'NOT_FOUND',
      message: expect.stringContaining(missing),
    });
  });

  test('an altered manifest or config is refused', async () => {
    const { manifestDigest } = await through('big').resolve();
    proxy.fault = (r) => (r.path.endsWith(manifestDigest) ? { corruptAt: 40 } : null);
    expect(await failure(open(`${proxy.host}/a/b@${manifestDigest}`).resolve())).toMatchObject({
      code: 'DIGEST_MISMATCH',
      message: expect.stringContaining(manifestDigest),
    });
    blobFaults({ corruptAt: 5 });
    expect(await failure(through('big').resolve())).toMatchObject({
      code: 'DIGEST_MISMATCH',
      message: expect.stringContaining('config'),
    });
    // By tag the manifest names itself: what the registry says of it must agree.
    proxy.fault = (r) =>
      r.path.endsWith('/big') ? { headers: { 'docker-content-digest': `sha256:${'1'.repeat(64)}` } } : null;
    expect(await failure(through('big').resolve())).toMatchObject({ code: 'DIGEST_MISMATCH' });
  });

  test('a manifest or config without end is cut off at its limit', async () => {
    const endless = Buffer.alloc(17 << 20, 0x20);
    proxy.fault = (r) => (r.path.includes('/manifests/') ? { respond: { status: 200, body: endless } } : null);
    expect(await failure(through('big').resolve())).toMatchObject({ code: 'LIMIT' });
    blobFaults({ respond: { status: 200, body: endless } });
    expect(await failure(through('big').resolve())).toMatchObject({ code: 'LIMIT' });
  });

  test('connections lost in mid-body are taken up where they broke', async () => {
    const source = through('big');
    blobFaults({ resetAfter: 500_000 }, { resetAfter: 1 }, { resetAfter: 0 }, null, { resetAfter: 900_000 });
    expect(
      (await collect(await source.fetchBlob(image.digest, { start: 10 }, { size: image.blob.length }))).equals(
        image.blob.subarray(10),
      ),
    ).toBe(true);
    const ranges = proxy.requests.map((r) => r.range);
    expect(ranges[0]).toBe('bytes=10-');
    expect(ranges.length).toBe(4);
    expect(Number(/^bytes=(\d+)-$/.exec(ranges[1]!)![1])).toBeGreaterThan(10);
    expect(source.counters.retries).toBe(3);
    expect(Buffer.from(await read(source, 0, 2_000_000)).equals(image.blob.subarray(0, 2_000_000))).toBe(true);
    expect(proxy.requests.length).toBe(6);
  });

  test('a stalled connection is given up and the range fetched anew', async () => {
    const source = through('big', { idleTimeoutMs: 200 });
    blobFaults({ stallAfter: 1000 });
    expect((await read(source, 0, 50_000)).length).toBe(50_000);
    expect(source.counters.retries).toBe(1);
  });

  test('5xx and 429 are retried, with Retry-After, and in the end given up', async () => {
    const source = through('big');
    blobFaults(
      { respond: { status: 503 } },
      { respond: { status: 500 } },
      { respond: { status: 429, headers: { 'retry-after': '1' } } },
    );
    const started = performance.now();
    expect((await read(source, 3, 9)).length).toBe(6);
    expect(performance.now() - started).toBeGreaterThan(990);
    expect(proxy.requests.length).toBe(4);

    proxy.reset();
    proxy.fault = () => ({
      respond: { status: 503, body: '{"errors":[{"code":"X","message":"down for\\nmaintenance"}]}' },
    });
    const error = await failure(read(source, 3, 9));
    expect(error).toMatchObject({
      code: 'NETWORK',
      message: expect.stringMatching(/answered 503 .*blob sha256:.*: down for maintenance/),
    });
    expect(proxy.requests.length).toBe(6);

    proxy.fault = () => ({ respond: { status: 429, headers: { 'retry-after': '3600' } } });
    expect((await failure(read(source, 3, 9))).message).toMatch(/limits the rate/);
  });

  test('ranges that are not what was asked for are refused', async () => {
    const source = through('big');
    blobFaults({ range: 'bytes=8-20' });
    expect(await failure(read(source, 7, 20))).toMatchObject({
      code: 'NETWORK',
      message: expect.stringContaining('with bytes 8-20'),
    });
    blobFaults({ range: 'bytes=7-30' });
    expect((await failure(read(source, 7, 20))).message).toMatch(/answers bytes 7-19 .* with bytes 7-30/);
    blobFaults({ headers: { 'content-range': null } });
    expect((await failure(read(source, 7, 20))).message).toMatch(/no Content-Range/);
    blobFaults({ headers: { 'content-range': 'bytes 7-19/99' } });
    expect(await failure(read(source, 7, 20))).toMatchObject({
      code: 'DIGEST_MISMATCH',
      message: expect.stringMatching(/holds 99 bytes/),
    });
    blobFaults({ headers: { 'content-encoding': 'gzip' } });
    expect((await failure(read(source, 7, 20))).message).toMatch(/Content-Encoding gzip/);
    // Less than asked for is no lie: the rest is asked for.
    blobFaults({ range: 'bytes=7-10' });
    expect(Buffer.from(await read(source, 7, 20)).equals(image.blob.subarray(7, 20))).toBe(true);
    blobFaults({ range: 'bytes=7-10' });
    expect(
      (await collect(await source.fetchBlob(image.digest, { start: 7, end: 20 }))).equals(image.blob.subarray(7, 20)),
    ).toBe(true);
  });

  test('a server without ranges: a short way is skipped, a long one refused', async () => {
    const source = through('big');
    blobFaults({ ignoreRange: true }, { ignoreRange: true });
    expect(
      Buffer.from(await read(source, 1_000_000, 1_000_100)).equals(image.blob.subarray(1_000_000, 1_000_100)),
    ).toBe(true);
    const stream = await source.fetchBlob(image.digest, { start: 5, end: 900_000 }, { size: image.blob.length });
    expect((await collect(stream)).equals(image.blob.subarray(5, 900_000))).toBe(true);
    proxy.fault = () => ({ respond: { status: 200, body: '' } });
    expect((await failure(source.fetchRange(image.digest, 9 << 20, 10 << 20))).message).toMatch(/ignores Range/);
  });

  test('redirects are followed, remembered, and asked for again when they fail', async () => {
    const source = through('big', { credentials: LOGIN });
    let generation = 1;
    let valid = 1;
    const storage = createServer((request, response) => {
      expect(request.headers.authorization).toBeUndefined();
      if (!request.url!.startsWith(`/${valid}/`)) {
        response.writeHead(403).end('expired');
        return;
      }
      const [, start, end] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range!)!.map(Number) as [
        number,
        number,
        number,
      ];
      response
        .writeHead(206, { 'content-range': `bytes ${start}-${end}/${image.blob.length}` })
        .end(image.blob.subarray(start, end + 1));
    });
    const base = await listen(storage);
    proxy.fault = (r) =>
      r.path.includes('/blobs/')
        ? { respond: { status: 307, headers: { location: `${base}/${generation}/data?sig=x` } } }
        : null;
    for (let i = 0; i < 5; i++)
      expect(Buffer.from(await read(source, i, i + 100)).equals(image.blob.subarray(i, i + 100))).toBe(true);
    expect(proxy.requests.length).toBe(1);
    generation = valid = 2;
    expect((await read(source, 0, 4)).length).toBe(4);
    expect(proxy.requests.length).toBe(2);
    expect(source.counters.redirects).toBe(2);
    valid = 3;
    expect(await failure(read(source, 0, 4))).toMatchObject({ code: 'UNAUTHORIZED' });
    storage.close();

    proxy.fault = (r) => ({ respond: { status: 307, headers: { location: `${proxy.url}${r.path}x` } } });
    expect((await failure(read(source, 0, 4))).message).toMatch(/more than 5 redirects/);
    proxy.fault = () => ({ respond: { status: 307, headers: { location: 'file:///etc/passwd' } } });
    expect((await failure(read(source, 0, 4))).message).toMatch(/a file: URL/);
  });

  test('an abort ends what is under way, at once, and nothing else', async () => {
    const source = through('big');
    blobFaults({ stallAfter: 100_000 });
    const abort = new AbortController();
    const reading = failure(source.fetchRange(image.digest, 0, 1_000_000, { signal: abort.signal }));
    setTimeout(() => abort.abort(), 50);
    expect(await reading).toMatchObject({ code: 'ABORTED' });
    expect((await read(source, 0, 10)).length).toBe(10);

    blobFaults({ delayMs: 60_000 });
    const second = new AbortController();
    setTimeout(() => second.abort(), 20);
    expect(await failure(source.fetchRange(image.digest, 0, 10, { signal: second.signal }))).toMatchObject({
      code: 'ABORTED',
    });
    proxy.fault = () => ({ respond: { status: 503, headers: { 'retry-after': '50' } } });
    const third = new AbortController();
    setTimeout(() => third.abort(), 50);
    expect(await failure(source.resolve({ signal: third.signal }))).toMatchObject({ code: 'ABORTED' });
    expect(await failure(source.resolve({ signal: AbortSignal.abort() }))).toMatchObject({ code: 'ABORTED' });
  });

  test('leaving a stream early closes its connection, and the next request works', async () => {
    const source = through('big');
    for await (const chunk of await source.fetchBlob(image.digest, { start: 0 })) {
      expect(chunk.length).toBeGreaterThan(0);
      break;
    }
    expect((await read(source, 0, 10)).length).toBe(10);
  });

  test('a stream that is read slowly holds back the sender', async () => {
    const source = through('big');
    const zeros = Buffer.alloc(64 << 20);
    proxy.fault = () => ({ respond: { status: 200, body: zeros } });
    let held = 0;
    const before = process.memoryUsage().arrayBuffers;
    let length = 0;
    for await (const chunk of await source.fetchBlob(image.digest, { start: 0 })) {
      length += chunk.length;
      if (length < 4 << 20) {
        await new Promise((resolve) => setTimeout(resolve, 2));
        held = Math.max(held, process.memoryUsage().arrayBuffers - before);
      }
    }
    expect(length).toBe(zeros.length);
    expect(held).toBeLessThan(40 << 20);
  });

  test('NOT a registry: a web server, something that speaks no HTTP, nothing at all', async () => {
    const web = createServer((_, response) =>
      response.writeHead(404, { 'content-type': 'text/html' }).end('<html>not here'),
    );
    const { host } = new URL(await listen(web));
    expect(await failure(open(`${host}/a`).resolve())).toMatchObject({
      code: 'NOT_FOUND',
      message: expect.stringContaining('not as a container registry'),
    });
    web
      .removeAllListeners('request')
      .on('request', (_, response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<html>'));
    expect(await failure(open(`${host}/a`).resolve())).toMatchObject({
      code: 'BAD_FORMAT',
      message: expect.stringContaining('web page'),
    });
    web.close();

    const ssh = createTcpServer((socket) => {
      socket.on('error', () => {});
      socket.end('SSH-2.0-OpenSSH_9.2\r\n');
    });
    const tcp = new URL(await listen(ssh)).host;
    expect((await failure(open(`${tcp}/a`).resolve())).message).toMatch(/does not speak HTTP/);
    ssh.close();
    expect(await failure(open('127.0.0.1:1/a').resolve())).toMatchObject({
      code: 'NETWORK',
      message: '127.0.0.1:1 refuses connections',
    });
    expect((await failure(open('no-such-host.invalid/a').resolve())).message).toMatch(
      /no-such-host\.invalid cannot be resolved/,
    );
  });

  test('layers that cannot be: foreign, encrypted, fewer than the config says', async () => {
    const bad = new LayoutBuilder();
    const config = (n: number) =>
      bad.json(
        {
          os: 'linux',
          architecture: 'amd64',
          rootfs: { type: 'layers', diff_ids: Array(n).fill(`sha256:${'0'.repeat(64)}`) },
        },
        MEDIA.ociConfig,
      );
    const layer = (mediaType: string) => bad.blob('x', mediaType);
    const refs = {
      foreign: bad.tag(
        bad.manifest(config(1), [layer('application/vnd.docker.image.rootfs.foreign.diff.tar.gzip')]),
        'foreign',
      ),
      nondistributable: bad.tag(
        bad.manifest(config(1), [layer('application/vnd.oci.image.layer.nondistributable.v1.tar+zstd')]),
        'nd',
      ),
      encrypted: bad.tag(
        bad.manifest(config(1), [layer('application/vnd.oci.image.layer.v1.tar+gzip+encrypted')]),
        'enc',
      ),
      count: bad.tag(bad.manifest(config(2), [layer(MEDIA.ociLayer)]), 'count'),
      artifact: bad.tag(bad.manifest(bad.json({}, 'application/vnd.cncf.helm.config.v1+json'), [layer('x/y')]), 'helm'),
    };
    expect((await failure(open(refs.foreign).resolve())).message).toMatch(/layer 1 of 1 .* is a foreign layer/);
    expect(await failure(open(refs.nondistributable).resolve())).toMatchObject({ code: 'UNSUPPORTED' });
    expect((await failure(open(refs.encrypted).resolve())).message).toMatch(/is encrypted/);
    expect((await failure(open(refs.count).resolve())).message).toMatch(
      /has 1 layers, but its config lists 2 diff IDs/,
    );
    expect((await failure(open(refs.artifact).resolve())).message).toMatch(
      /not a container image but an artifact \(application\/vnd\.cncf\.helm/,
    );
    bad.remove();
  });
});

describe('nested indexes', () => {
  test('are followed, in layouts as in registries, to a limit', async () => {
    const nested = new LayoutBuilder();
    const leaf = {
      ...nested.image(['deep'], { architecture: 'riscv64' }),
      platform: { os: 'linux', architecture: 'riscv64' },
    };
    let index = nested.index([leaf]);
    const riscv = parsePlatform('linux/riscv64');
    for (let depth = 2; depth <= 4; depth++) index = nested.index([index]);
    expect((await open(nested.tag(index, 'four')).resolve({ platform: riscv })).platform.architecture).toBe('riscv64');
    index = nested.index([nested.index([index])]);
    expect(await failure(open(nested.tag(index, 'six')).resolve({ platform: riscv }))).toMatchObject({ code: 'LIMIT' });
    const wide = nested.index(
      Array.from({ length: 40 }, (_, i) => nested.index([{ ...leaf, platform: { os: `os${i}`, architecture: 'x' } }])),
    );
    expect(await failure(open(nested.tag(wide, 'wide')).resolve({ platform: riscv }))).toMatchObject({ code: 'LIMIT' });
    const two = nested.index([
      nested.index([{ ...leaf, platform: { os: 'linux', architecture: 's390x' } }]),
      nested.index([leaf]),
    ]);
    expect((await open(nested.tag(two, 'two')).resolve({ platform: riscv })).platform.architecture).toBe('riscv64');
    nested.remove();
  });
});

describe('TLS', () => {
  let registry: TestRegistry;
  let certs = '';
  beforeAll(async () => {
    registry = await startRegistry({ tls: true });
    await registry.push(`oci:${layout.directory}:multi`, 'a/b:multi');
    certs = mkdtempSync(join(tmpdir(), 'clip-certs-'));
  });
  afterAll(async () => {
    await registry.stop();
    rmSync(certs, { recursive: true, force: true });
  });

  test('a loopback registry with TLS is spoken to in TLS, and its certificate checked', async () => {
    const error = await failure(open(`${registry.host}/a/b:multi`).resolve());
    expect(error).toMatchObject({
      code: 'NETWORK',
      message: expect.stringContaining(`the TLS certificate of ${registry.host} is not trusted`),
    });
    expect(error.hint).toContain(`/etc/docker/certs.d/${registry.host}/ca.crt`);
    const ca = readFileSync(registry.certificates!.caCert, 'utf8');
    expect((await open(`${registry.host}/a/b:multi`, { ca }).resolve()).layers.length).toBe(1);
    expect((await open(`localhost:${registry.port}/a/b:multi`, { ca }).resolve()).layers.length).toBe(1);
    // The certificate is for 127.0.0.1, ::1 and localhost.
    expect((await failure(open(`127.0.0.2:${registry.port}/a/b:multi`, { ca }).resolve())).message).toMatch(
      /127\.0\.0\.2.*(not trusted|refuses)/,
    );
  });

  test('certs.d, as Docker has it', async () => {
    mkdirSync(join(certs, registry.host));
    copyFileSync(registry.certificates!.caCert, join(certs, registry.host, 'ca.crt'));
    expect((await open(`${registry.host}/a/b:multi`, { certsDirectories: [certs] }).resolve()).layers.length).toBe(1);
    writeFileSync(join(certs, registry.host, 'client.cert'), 'x');
    expect(
      (await failure(open(`${registry.host}/a/b:multi`, { certsDirectories: [certs] }).resolve())).message,
    ).toMatch(/no \.key file/);
  });

  test('plainHttp forces HTTP; a TLS server then says what it is', async () => {
    expect((await failure(open(`${registry.host}/a/b:multi`, { plainHttp: true }).resolve())).message).toMatch(/400/);
  });
});

describe('logins', () => {
  const ref = (registry: TestRegistry): string => `${registry.host}/a/b:multi`;

  test('Basic', async () => {
    const registry = await startRegistry({ auth: 'basic' });
    try {
      await registry.push(`oci:${layout.directory}:multi`, 'a/b:multi');
      expect((await open(ref(registry), { credentials: LOGIN }).resolve()).layers.length).toBe(1);
      const none = await failure(open(ref(registry)).resolve());
      expect(none).toMatchObject({ code: 'UNAUTHORIZED', message: expect.stringContaining('wants a login for a/b') });
      expect(none.hint).toContain(`docker login ${registry.host}`);
      const wrong = { username: 'clip', password: 'wrong' };
      expect((await failure(open(ref(registry), { credentials: wrong }).resolve())).message).toMatch(
        /refuses the login/,
      );
      const asked: string[] = [];
      const provider = {
        name: 'test',
        getCredentials: async (host: string, repository: string) => {
          asked.push(`${host} ${repository}`);
          return LOGIN;
        },
      };
      await open(ref(registry), { credentials: provider }).resolve();
      expect(asked).toEqual([`${registry.host} a/b`]);
    } finally {
      await registry.stop();
    }
  });

  test('Bearer tokens: fetched once, shared, renewed before and after they end', async () => {
    const registry = await startRegistry({ auth: 'token', tokenSeconds: 1 });
    const tokens = registry.tokens!;
    try {
      await registry.push(`oci:${layout.directory}:big`, 'a/b:multi');
      (tokens.requests as unknown[]).length = 0;
      const source = open(ref(registry), { credentials: LOGIN });
      await source.resolve();
      expect(tokens.requests.length).toBe(1);
      expect(tokens.requests[0]).toMatchObject({
        method: 'GET',
        query: { service: 'clip-test-registry', scope: 'repository:a/b:pull', account: 'clip' },
      });
      await new Promise((resolve) => setTimeout(resolve, 700));
      await Promise.all(Array.from({ length: 20 }, (_, i) => source.fetchRange(image.digest, i, i + 10)));
      expect(tokens.requests.length).toBe(2);

      tokens.useAccessToken = true;
      expect(
        (await open(ref(registry), { credentials: { identityToken: IDENTITY_TOKEN } }).resolve()).layers.length,
      ).toBe(3);
      expect(tokens.requests.at(-1)).toMatchObject({
        method: 'POST',
        form: { grant_type: 'refresh_token', refresh_token: IDENTITY_TOKEN },
      });
      tokens.useAccessToken = false;

      tokens.failNext(503, 2);
      expect((await open(ref(registry), { credentials: LOGIN }).resolve()).layers.length).toBe(3);
      expect((await failure(open(ref(registry)).resolve())).message).toMatch(/wants a login for a\/b/);
      const wrong = { username: 'clip', password: 'wrong' };
      expect(await failure(open(ref(registry), { credentials: wrong }).resolve())).toMatchObject({
        code: 'UNAUTHORIZED',
        message: expect.stringContaining('refuses the login'),
      });
      expect((await failure(open(ref(registry), { credentials: { registryToken: 'abc' } }).resolve())).code).toBe(
        'UNAUTHORIZED',
      );
    } finally {
      await registry.stop();
    }
  });

  test('anonymous tokens', async () => {
    const registry = await startRegistry({ auth: 'token', anonymousPull: true, tls: true });
    try {
      await registry.push(`oci:${layout.directory}:multi`, 'a/b:multi');
      const ca = readFileSync(registry.certificates!.caCert, 'utf8');
      const source = open(ref(registry), { ca });
      expect((await source.resolve()).layers.length).toBe(1);
      expect(source.counters.tokens).toBe(1);
    } finally {
      await registry.stop();
    }
  });

  test('a password is not sent in the clear to where a TLS registry points', async () => {
    const { Authenticator } = await import('./auth.js');
    const { Body } = await import('./body.js');
    const { Transport } = await import('./transport.js');
    const transport = new Transport({});
    const auth = new Authenticator(transport, 'r.io', 'a/b', LOGIN);
    const body = new Body({ pause: () => {}, resume: () => {}, abort: () => {} });
    const headers = { 'www-authenticate': 'Bearer realm="http://evil.example/token"' };
    const response = { url: new URL('https://r.io/v2/'), status: 401, headers, body };
    expect((await failure(auth.challenged(response, null))).message).toMatch(
      /wants the password for evil\.example sent without TLS/,
    );
    await transport.close();
  });
});

describe('a registry that goes away', () => {
  test('is waited for if it has been there, and not if it never was', async () => {
    const blob = Buffer.from('0123456789');
    const serve = (): Server =>
      createServer((request, response) => {
        const [, start, end] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range!)!.map(Number) as [
          number,
          number,
          number,
        ];
        response.writeHead(206, { 'content-range': `bytes ${start}-${end}/10` }).end(blob.subarray(start, end + 1));
      });
    let server = serve();
    const { host, port } = new URL(await listen(server));
    const source = open(`${host}/a/b`, { retry: { baseMs: 100, maxMs: 300 } });
    const digest = `sha256:${'0'.repeat(64)}`;
    expect((await source.fetchRange(digest, 2, 4)).length).toBe(2);
    server.close();
    server.closeAllConnections();
    setTimeout(() => {
      server = serve().listen(Number(port), '127.0.0.1');
    }, 300);
    expect(Buffer.from(await source.fetchRange(digest, 2, 4)).toString()).toBe('23');
    server.close();
    server.closeAllConnections();
    const before = source.counters.retries;
    expect((await failure(source.fetchRange(digest, 2, 4))).message).toBe(`${host} refuses connections`);
    expect(source.counters.retries - before).toBe(5);
    const never = open(`${host}/a/b`);
    expect((await failure(never.resolve())).message).toBe(`${host} refuses connections`);
    expect(never.counters.retries).toBe(0);
  });
});

describe('credentials that end', () => {
  test.each(['basic', 'token'] as const)(
    '%s: the provider is asked again, once, when they are refused',
    async (auth) => {
      const registry = await startRegistry({ auth, tokenSeconds: 1 });
      try {
        await registry.push(`oci:${layout.directory}:multi`, 'a/b:multi');
        let asked = 0;
        const answers = [{ username: 'clip', password: 'expired' }, LOGIN];
        const provider = { name: 'test', getCredentials: async () => answers[Math.min(asked++, answers.length - 1)]! };
        const ref = `${registry.host}/a/b:multi`;
        expect((await open(ref, { credentials: provider }).resolve()).layers.length).toBe(1);
        expect(asked).toBe(2);

        // As a daemon has it: what a client resolved, and where to look again.
        const home = mkdtempSync(join(tmpdir(), 'clip-home-'));
        const write = (password: string): void => {
          const entry = { auth: Buffer.from(`clip:${password}`).toString('base64') };
          writeFileSync(join(home, 'config.json'), JSON.stringify({ auths: { [registry.host]: entry } }));
        };
        write(LOGIN.password);
        const reference = parseReference(ref);
        const access = await captureAccess(reference, {}, { DOCKER_CONFIG: home, SECRET: 'not passed on' });
        expect(access.credentials).toEqual(LOGIN);
        expect(access.lookup!.env).toEqual({ DOCKER_CONFIG: home });
        const sent = JSON.parse(
          JSON.stringify({ ...access, credentials: { username: 'clip', password: 'expired' } }),
        ) as SourceOptions;
        if (auth === 'basic') expect((await open(ref, sent).resolve()).layers.length).toBe(1);
        expect((await open(ref, access).resolve()).layers.length).toBe(1);
        rmSync(home, { recursive: true, force: true });
      } finally {
        await registry.stop();
      }
    },
  );
});

describe('proxies', () => {
  test('requests go through HTTP_PROXY by absolute URL, and what it refuses is said', async () => {
    const seen: string[] = [];
    const forward = createServer((request, response) => {
      seen.push(`${request.method} ${request.url} ${request.headers['proxy-authorization'] ?? ''}`);
      response.writeHead(407).end();
    });
    forward.on('connect', (request, socket) => {
      seen.push(`CONNECT ${request.url}`);
      socket.end('HTTP/1.1 403 Forbidden\r\n\r\n');
    });
    const url = await listen(forward);
    const settings = { http: url.replace('http://', 'http://me:pw@'), https: url };
    const plain = await failure(open('registry.example/a/b', { plainHttp: true, proxy: settings }).resolve());
    expect(plain.message).toMatch(/proxy/i);
    expect(seen[0]).toMatch(/^GET http:\/\/registry\.example\/v2\/a\/b\/manifests\/latest Basic /);
    const tls = await failure(open('registry.example/a/b', { proxy: settings }).resolve());
    expect(tls.message).toMatch(/the proxy for registry\.example failed/);
    expect(seen).toContain('CONNECT registry.example:443');
    forward.close();
    forward.closeAllConnections();
  });
});

describe('image layouts', () => {
  test('resolve and read as a registry does', async () => {
    const source = open(`oci:${layout.directory}:big`);
    const resolved = await source.resolve();
    expect(resolved).toMatchObject({
      registry: '',
      repository: layout.directory,
      reference: `oci:${layout.directory}:big`,
    });
    const size = image.blob.length;
    expect((await collect(await source.fetchBlob(image.digest, { start: 0 }, { size }))).equals(image.blob)).toBe(true);
    expect(Buffer.from(await source.fetchRange(image.digest, 5, 700_000)).equals(image.blob.subarray(5, 700_000))).toBe(
      true,
    );
    const later = sourceForArchive(resolved);
    sources.push(later);
    expect((await later.fetchRange(image.digest, 0, 3)).length).toBe(3);
    await expect(source.fetchRange(image.digest, 0, size + 1)).rejects.toThrow(RangeError);
    expect(await failure(source.fetchRange(image.digest, 0, 1, { size: size + 1 }))).toMatchObject({
      code: 'DIGEST_MISMATCH',
    });
  });

  test('what can be wrong with them', async () => {
    expect((await failure(open('oci:/nonexistent:x').resolve())).message).toMatch(
      /is not an OCI image layout: it has no oci-layout/,
    );
    const error = await failure(open(`oci:${layout.directory}:nope`).resolve());
    expect(error.hint).toBe(
      `it has: oci:${layout.directory}:big, oci:${layout.directory}:multi, oci:${layout.directory}:docker`,
    );
    expect((await failure(open(`oci:${layout.directory}`).resolve())).message).toMatch(/holds more than one image/);

    const one = new LayoutBuilder();
    expect((await failure(open(`oci:${one.directory}`).resolve())).message).toMatch(/has no image/);
    const only = one.image(['x']);
    one.tag(only);
    expect((await open(`oci:${one.directory}`).resolve()).layers.length).toBe(1);
    expect((await open(`oci:${one.directory}@${only.digest}`).resolve()).manifestDigest).toBe(only.digest);
    const { layers } = await open(`oci:${one.directory}`).resolve();
    rmSync(one.blobPath(layers[0]!.digest));
    expect(await failure(open(`oci:${one.directory}`).fetchRange(layers[0]!.digest, 0, 1))).toMatchObject({
      code: 'NOT_FOUND',
    });
    expect(await failure(open(`oci:${one.directory}`).fetchRange('sha256:../../../../etc/passwd', 0, 1))).toMatchObject(
      { code: 'BAD_FORMAT' },
    );
    mkdirSync(one.blobPath(layers[0]!.digest));
    expect((await failure(open(`oci:${one.directory}`).fetchRange(layers[0]!.digest, 0, 1))).message).toMatch(
      /not a regular file/,
    );
    writeFileSync(one.blobPath(only.digest), 'x'.repeat(only.size));
    expect(await failure(open(`oci:${one.directory}`).resolve())).toMatchObject({ code: 'DIGEST_MISMATCH' });
    one.remove();
  });

  test('a digest of what was fetched is the layer’s', () => {
    expect(`sha256:${createHash('sha256').update(image.blob).digest('hex')}`).toBe(image.digest);
  });
});

function listen(server: Server | ReturnType<typeof createTcpServer>): Promise<string> {
  return new Promise((resolve) =>
    server.listen(0, '127.0.0.1', () => resolve(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)),
  );
}
