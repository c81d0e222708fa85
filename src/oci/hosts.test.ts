import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer as createHttpsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { makeCertificates } from '../../test/support/certificates.js';
import { type RegistryProxy, startProxy } from '../../test/support/proxy.js';
import { LOGIN, startRegistry, type TestRegistry } from '../../test/support/registry.js';
import { failure, fetchRange, imagesLayout, Sources } from '../../test/support/sources.js';
import { hostsFor, UPSTREAM } from './hosts.js';
import { captureAccess, type ImageSource, type SourceOptions } from './index.js';

const { layout, image } = imagesLayout();
const sources = new Sources();
let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'clip-hosts-'));
});
afterEach(async () => {
  await sources.close();
  rmSync(directory, { recursive: true, force: true });
});
afterAll(() => layout.remove());

function hosts(name: string, toml: string): void {
  mkdirSync(join(directory, name), { recursive: true });
  writeFileSync(join(directory, name, 'hosts.toml'), toml);
}

describe('hosts.toml', () => {
  test('mirrors in their order, then the server; what each lacks has containerd’s defaults', async () => {
    writeFileSync(join(directory, 'ca.pem'), 'THE CA');
    hosts(
      'docker.io',
      `server = "https://registry-1.docker.io"
       [host."https://mirror.example.com"]
         capabilities = ["pull"]
         skip_verify = true
         ca = "${join(directory, 'ca.pem')}"
         [host."https://mirror.example.com".header]
           x-one = "1"
           x-two = ["a", "b"]
       [host."http://10.0.0.1:5000/cache"]
       [host."plain.example.com/v2/deep"]
         override_path = true`,
    );
    expect(await hostsFor('docker.io', directory)).toEqual([
      {
        base: 'https://mirror.example.com/v2/',
        capabilities: ['pull'],
        namespace: 'docker.io',
        ca: 'THE CA',
        client: [],
        skipVerify: true,
        headers: { 'x-one': '1', 'x-two': 'a, b' },
      },
      { ...UPSTREAM, base: 'http://10.0.0.1:5000/cache/v2/', namespace: 'docker.io' },
      { ...UPSTREAM, base: 'https://plain.example.com/v2/deep/', namespace: 'docker.io' },
      { ...UPSTREAM, base: 'https://registry-1.docker.io/v2/' },
    ]);
  });

  test('is found under the names that containerd gives the directory', async () => {
    const mirror = async (registry: string): Promise<string | null> => (await hostsFor(registry, directory))[0]!.base;
    hosts('_default', '[host."https://default.example"]');
    expect(await mirror('h.io:5000')).toBe('https://default.example/v2/');
    hosts('h.io:5000', '[host."https://colon.example"]');
    expect(await mirror('h.io:5000')).toBe('https://colon.example/v2/');
    hosts('h.io_5000_', '[host."https://underscore.example"]');
    expect(await mirror('h.io:5000')).toBe('https://underscore.example/v2/');
    // Docker's way of keeping certificates: a directory without the file.
    mkdirSync(join(directory, 'certs.io'));
    expect(await hostsFor('certs.io', directory)).toEqual([UPSTREAM]);
    expect(await hostsFor('h.io', join(directory, 'nowhere'))).toEqual([UPSTREAM]);
  });

  test.each([
    ['server = ', /not TOML/],
    ['server = 5', /server is not a string/],
    ['[host."ftp://x"]', /not an http or https URL/],
    ['[host."https://x"]\ncapabilities = ["fly"]', /capabilities must be/],
    ['[host."https://x"]\nskip_verify = "yes"', /skip_verify/],
    ['[host."https://x"]\nca = "missing.pem"', /names .*missing\.pem, which is not there/],
    ['[host."https://x".header]\n"a b" = "c"', /header "a b" cannot be sent/],
    ['[host."https://x".header]\na = "b\\r\\nc: d"', /cannot be sent/],
  ])('%j is refused', async (toml, message) => {
    hosts('h.io', toml);
    const error = await failure(hostsFor('h.io', directory));
    expect(error).toMatchObject({ code: 'BAD_FORMAT', message: expect.stringMatching(message) });
    expect(error.message).toContain(join(directory, 'h.io/hosts.toml'));
  });
});

describe('mirrors of a registry', () => {
  let registry: TestRegistry;
  let mirror: RegistryProxy;
  let upstream: RegistryProxy;
  beforeAll(async () => {
    registry = await startRegistry();
    await registry.push(`oci:${layout.directory}:big`, 'a/b:big');
    mirror = await startProxy({ upstream: registry.url });
    upstream = await startProxy({ upstream: registry.url });
  });
  afterAll(async () => {
    await mirror?.stop();
    await upstream?.stop();
    await registry?.stop();
  });
  beforeEach(() => {
    for (const proxy of [mirror, upstream]) {
      proxy.fault = null;
      proxy.reset();
    }
  });
  const open = (settings = '', options: SourceOptions = {}): ImageSource => {
    hosts(upstream.host, `[host."${mirror.url}"]\n${settings}`);
    return sources.open(`${upstream.host}/a/b:big`, { hostsDirectory: directory, ...options });
  };
  const into = async (source: ImageSource, mismatches = 0): Promise<Buffer> => {
    const bytes = new Uint8Array(1000);
    await source.fetchInto(image.digest, 5, bytes, { size: image.blob.length, mismatches });
    return Buffer.from(bytes);
  };
  const expected = image.blob.subarray(5, 1005);

  test('serve everything, and are told which registry is meant', async () => {
    const source = open();
    expect((await source.resolve()).registry).toBe(upstream.host);
    expect((await into(source)).equals(expected)).toBe(true);
    expect(upstream.requests).toEqual([]);
    expect(mirror.requests.length).toBeGreaterThan(2);
    for (const { path } of mirror.requests) expect(path).toContain(`?ns=${encodeURIComponent(upstream.host)}`);
  });

  test('that cannot resolve tags are asked for what has a digest', async () => {
    const source = open('capabilities = ["pull"]');
    await source.resolve();
    await into(source);
    expect(upstream.requests.map(({ path }) => path)).toEqual(['/v2/a/b/manifests/big']);
    expect(mirror.requests.length).toBe(2);
  });

  test('what one lacks comes from the registry', async () => {
    mirror.fault = () => ({ respond: { status: 404 } });
    const source = open();
    await source.resolve();
    expect((await into(source)).equals(expected)).toBe(true);
    expect((await fetchRange(source, image.digest, 5, 1005)).equals(expected)).toBe(true);
  });

  test.each([
    ['refuses connections', { refuse: true }],
    ['is in trouble', { respond: { status: 503 } }],
    ['resets', { resetAfter: 10 }],
  ])('one that %s is left out for a while, and no reader notices', async (_, fault) => {
    mirror.fault = () => fault;
    const source = open();
    expect((await into(source)).equals(expected)).toBe(true);
    const tried = mirror.requests.length;
    for (let i = 0; i < 5; i++) expect((await into(source)).equals(expected)).toBe(true);
    expect(mirror.requests.length).toBe(tried);
  });

  test('one that is not there at all costs a refused connection', async () => {
    const gone = await startProxy({ upstream: registry.url });
    await gone.stop();
    hosts(upstream.host, `[host."${gone.url}"]`);
    const source = sources.open(`${upstream.host}/a/b:big`, { hostsDirectory: directory });
    await source.resolve();
    expect((await into(source)).equals(expected)).toBe(true);
  });

  test('after wrong bytes another host is asked', async () => {
    const source = open();
    mirror.fault = () => ({ corruptAt: 3 });
    expect((await into(source)).equals(expected)).toBe(false);
    expect((await into(source, 1)).equals(expected)).toBe(true);
    expect(upstream.requests.length).toBe(1);
  });

  test('the error is the registry’s when none has it', async () => {
    mirror.fault = () => ({ respond: { status: 500 } });
    const error = await failure(fetchRange(open(), `sha256:${'0'.repeat(64)}`, 0, 1));
    expect(error).toMatchObject({ code: 'NOT_FOUND', message: expect.stringContaining(upstream.host) });
  });

  test('a login for the registry is not sent to a mirror, whose own comes from the same places', async () => {
    const env = {
      CLIP_HOSTS_DIR: directory,
      CLIP_OCI_AUTH: JSON.stringify({ [upstream.host]: LOGIN, [mirror.host]: { username: 'mirror', password: 'p' } }),
      HOME: directory,
    };
    open();
    const access = await captureAccess({ registry: upstream.host, repository: 'a/b' }, {}, env);
    expect(access.credentials).toEqual(LOGIN);
    expect(access.hosts.map(({ credentials }) => credentials)).toEqual([
      { username: 'mirror', password: 'p' },
      undefined,
    ]);
    mirror.fault = (request) =>
      request.authorization === null
        ? { respond: { status: 401, headers: { 'www-authenticate': 'Basic realm="x"' } } }
        : null;
    const basic = (name: string): string => `Basic ${Buffer.from(name).toString('base64')}`;
    const captured = JSON.parse(JSON.stringify(access)) as SourceOptions;
    await into(sources.open(`${upstream.host}/a/b:big`, captured));
    expect(mirror.requests.at(-1)!.authorization).toBe(basic('mirror:p'));
    mirror.reset();
    // With a login given for the registry alone, the mirror gets none, and the registry is asked.
    await into(open('', { credentials: LOGIN }));
    expect(mirror.requests.map(({ authorization }) => authorization)).toEqual([null, null]);
    expect(upstream.requests.length).toBe(1);
  });

  test('with a private CA, client certificates, headers of their own and a path in place of /v2', async () => {
    const tls = await makeCertificates(join(directory, 'tls'));
    const seen: (string | undefined)[] = [];
    const server = createHttpsServer(
      {
        cert: readFileSync(tls.serverCert),
        key: readFileSync(tls.serverKey),
        ca: readFileSync(tls.caCert),
        requestCert: true,
        rejectUnauthorized: true,
      },
      (request, response) => {
        seen.push(`${request.url} ${request.headers['x-tenant']}`);
        const [, start, end] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range!)!.map(Number) as number[];
        response.writeHead(206, {
          'content-range': `bytes ${start}-${end}/${image.blob.length}`,
          'content-length': end! - start! + 1,
        });
        response.end(image.blob.subarray(start, end! + 1));
      },
    );
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    try {
      const base = `https://localhost:${port}/v2/team`;
      const settings = (more: string): string =>
        `[host."${base}"]\noverride_path = true\n${more}\n[host."${base}".header]\nx-tenant = "seven"`;
      const read = async (more: string): Promise<Buffer> => {
        hosts(upstream.host, settings(more));
        return into(sources.open(`${upstream.host}/a/b:big`, { hostsDirectory: directory }));
      };
      const client = `client = [["${tls.serverCert}", "${tls.serverKey}"]]`;
      await read(`ca = "${tls.caCert}"\n${client}`);
      expect(seen).toEqual([`/v2/team/a/b/blobs/${image.digest}?ns=${encodeURIComponent(upstream.host)} seven`]);
      expect(upstream.requests).toEqual([]);
      await read(`skip_verify = true\n${client}`);
      expect(seen.length).toBe(2);
      // Without the CA, or without the certificate, it is no use, and the registry is asked.
      await read(client);
      await read(`ca = "${tls.caCert}"`);
      expect(seen.length).toBe(2);
      expect(upstream.requests.length).toBe(2);
    } finally {
      server.closeAllConnections();
      server.close();
    }
  });
});
