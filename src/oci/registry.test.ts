import { createServer } from 'node:http';
import { createServer as createTcpServer } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { LayoutBuilder, MEDIA } from '../../test/support/layout.js';
import { type Fault, type RegistryProxy, startProxy } from '../../test/support/proxy.js';
import { LOGIN, startRegistry, type TestRegistry } from '../../test/support/registry.js';
import { collect, failure, fetchRange, imagesLayout, listen, Sources } from '../../test/support/sources.js';
import { type ImageSource, parsePlatform, type SourceOptions, sourceForArchive } from './index.js';

const { layout, image } = imagesLayout();
const sources = new Sources();
const open = sources.open.bind(sources);
afterEach(() => sources.close());
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
    fetchRange(source, image.digest, start, end, { size: image.blob.length });

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

  test('a hundred ranges at once share thirty-two connections', async () => {
    const source = through('big');
    await read(source, 0, 10);
    const before = proxy.connections;
    proxy.fault = () => ({ delayMs: 5 });
    const starts = Array.from({ length: 100 }, (_, i) => i * 25_000);
    const parts = await Promise.all(starts.map((start) => read(source, start, start + 1000)));
    parts.forEach((part, i) => {
      expect(Buffer.from(part).equals(image.blob.subarray(starts[i]!, starts[i]! + 1000))).toBe(true);
    });
    expect(proxy.connections - before).toBeLessThanOrEqual(32);
  });

  test('by digest, and from what an archive remembers', async () => {
    const resolved = await through('big').resolve();
    const same = await open(`${proxy.host}/a/b@${resolved.manifestDigest}`).resolve();
    expect(same.layers).toEqual(resolved.layers);
    const later = sourceForArchive(resolved, { credentials: null });
    sources.keep(later);
    expect((await later.resolve()).manifestDigest).toBe(resolved.manifestDigest);
    expect((await read(later, 7, 9)).length).toBe(2);
  });

  test('Docker’s media types', async () => {
    const resolved = await through('docker').resolve();
    expect(resolved.layers[0]!.mediaType).toBe(MEDIA.dockerLayer);
  });

  test('platforms: the asked one, attestations skipped, a miss lists what there is, a single one that is another is refused', async () => {
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
    expect(await failure(through('big').resolve({ platform: parsePlatform('linux/arm64') }))).toMatchObject({
      code: 'NO_PLATFORM',
      message: `${proxy.host}/a/b:big is an image for linux/amd64, not linux/arm64`,
    });
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
    expect(await failure(fetchRange(through('big'), missing, 0, 1))).toMatchObject({
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
    proxy.fault = (r) => (r.path.includes('/blobs/') ? { respond: { status: 200, body: endless } } : null);
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

  // It took 8 s: a read that finds half a blob must fail, or turn to another source, while its reader still waits.
  test('a body that ends at the same place time and again is not waited for like a server in trouble', async () => {
    const source = through('big', { retry: { baseMs: 100, maxMs: 5000 } });
    const size = image.blob.length;
    proxy.fault = (r) => {
      const first = Number(/^bytes=(\d+)-/.exec(r.range ?? '')?.[1] ?? 0);
      return r.path.includes('/blobs/') ? { resetAfter: Math.max(0, 500_000 - first) } : null;
    };
    const target = new Uint8Array(1_000_000);
    expect(await failure(source.fetchInto(image.digest, 0, target, { size }))).toMatchObject({ code: 'NETWORK' });
    expect(Buffer.from(target.subarray(0, 500_000)).equals(image.blob.subarray(0, 500_000))).toBe(true);
    // A reset may take bytes with it that were sent, so that the place is reached in more than one step.
    const empty = (): number => proxy.requests.filter((request) => request.bytes === 0).length;
    expect(empty()).toBe(3);
    expect(await failure(read(source, 0, 1_000_000))).toMatchObject({ code: 'NETWORK' });
    expect(empty()).toBe(6);
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
    const always = (fault: Fault): void => {
      proxy.fault = (request) => (request.path.includes('/blobs/') ? fault : null);
    };
    always({ range: 'bytes=8-20' });
    expect(await failure(read(source, 7, 20))).toMatchObject({
      code: 'NETWORK',
      message: expect.stringContaining('with bytes 8-20'),
    });
    always({ range: 'bytes=7-30' });
    expect((await failure(read(source, 7, 20))).message).toMatch(/answers bytes 7-19 .* with bytes 7-30/);
    always({ headers: { 'content-range': null } });
    expect((await failure(read(source, 7, 20))).message).toMatch(/no Content-Range/);
    always({ headers: { 'content-range': 'bytes 7-19/99' } });
    expect(await failure(read(source, 7, 20))).toMatchObject({
      code: 'DIGEST_MISMATCH',
      message: expect.stringMatching(/holds 99 bytes/),
    });
    always({ headers: { 'content-encoding': 'gzip' } });
    expect((await failure(read(source, 7, 20))).message).toMatch(/Content-Encoding gzip/);
    // Once is a hiccup, from a server that has served ranges.
    blobFaults({ respond: { status: 403 } }, { respond: { status: 401 } }, { range: 'bytes=8-20' });
    expect(Buffer.from(await read(source, 7, 20)).equals(image.blob.subarray(7, 20))).toBe(true);
    // Less than asked for is no lie: the rest is asked for.
    blobFaults({ range: 'bytes=7-10' });
    expect(Buffer.from(await read(source, 7, 20)).equals(image.blob.subarray(7, 20))).toBe(true);
    blobFaults({ range: 'bytes=7-10' });
    expect(
      (await collect(await source.fetchBlob(image.digest, { start: 7, end: 20 }))).equals(image.blob.subarray(7, 20)),
    ).toBe(true);
  });

  test('a server without ranges: a short way is skipped; a long one needs the blob’s size', async () => {
    const source = through('big');
    blobFaults({ ignoreRange: true }, { ignoreRange: true });
    expect(
      Buffer.from(await read(source, 1_000_000, 1_000_100)).equals(image.blob.subarray(1_000_000, 1_000_100)),
    ).toBe(true);
    const stream = await source.fetchBlob(image.digest, { start: 5, end: 900_000 }, { size: image.blob.length });
    expect((await collect(stream)).equals(image.blob.subarray(5, 900_000))).toBe(true);
    proxy.fault = () => ({ respond: { status: 200, body: '' } });
    expect((await failure(fetchRange(source, image.digest, 9 << 20, 10 << 20))).message).toMatch(/ignores Range/);
  });

  test('fetchInto: straight into memory, and past every fault to the same bytes', async () => {
    const source = through('big', { idleTimeoutMs: 300 });
    const size = image.blob.length;
    const into = async (start: number, end: number): Promise<number[]> => {
      const target = new Uint8Array(new SharedArrayBuffer(end - start));
      const seen: number[] = [];
      const onBytes = (received: number): null => {
        // What is announced is there.
        const last = seen.at(-1) ?? 0;
        expect(
          Buffer.from(target.subarray(last, received)).equals(image.blob.subarray(start + last, start + received)),
        ).toBe(true);
        seen.push(received);
        return null;
      };
      await source.fetchInto(image.digest, start, target, { size, onBytes });
      expect(Buffer.from(target).equals(image.blob.subarray(start, end))).toBe(true);
      expect(seen.at(-1)).toBe(end - start);
      return seen;
    };
    await into(0, size);
    await into(size - 1, size);
    expect(proxy.requests.length).toBe(2);
    const before = source.counters.requests;
    for (const fault of [
      { resetAfter: 100_000 },
      { stallAfter: 100_000 },
      { refuse: true },
      { respond: { status: 503 } },
      { range: 'bytes=7-10' },
      { ignoreRange: true },
    ] satisfies Fault[]) {
      blobFaults(fault, fault);
      const seen = await into(7, 900_000);
      expect(seen).toEqual([...seen].sort((a, b) => a - b));
    }
    expect(source.counters.requests).toBeGreaterThan(before + 6);
    blobFaults({ stallAfter: 100_000 });
    const abort = new AbortController();
    const onBytes = (): null => {
      abort.abort();
      return null;
    };
    const stalled = source.fetchInto(image.digest, 0, new Uint8Array(size), { size, signal: abort.signal, onBytes });
    expect(await failure(stalled)).toMatchObject({ code: 'ABORTED' });
    await expect(source.fetchInto(image.digest, 1, new Uint8Array(size), { size })).rejects.toThrow(RangeError);
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
    const reading = failure(fetchRange(source, image.digest, 0, 1_000_000, { signal: abort.signal }));
    setTimeout(() => abort.abort(), 50);
    expect(await reading).toMatchObject({ code: 'ABORTED' });
    expect((await read(source, 0, 10)).length).toBe(10);

    blobFaults({ delayMs: 60_000 });
    const second = new AbortController();
    setTimeout(() => second.abort(), 20);
    expect(await failure(fetchRange(source, image.digest, 0, 10, { signal: second.signal }))).toMatchObject({
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

  test('layers that cannot be: encrypted, fewer than the config says', async () => {
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
      encrypted: bad.tag(
        bad.manifest(config(1), [layer('application/vnd.oci.image.layer.v1.tar+gzip+encrypted')]),
        'enc',
      ),
      count: bad.tag(bad.manifest(config(2), [layer(MEDIA.ociLayer)]), 'count'),
      artifact: bad.tag(bad.manifest(bad.json({}, 'application/vnd.cncf.helm.config.v1+json'), [layer('x/y')]), 'helm'),
    };
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
