import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { LOGIN, startRegistry, type TestRegistry } from '../../test/support/registry.js';
import { failure, fetchRange, imagesLayout, listen, Sources } from '../../test/support/sources.js';
import { IDENTITY_TOKEN } from '../../test/support/token-server.js';
import { captureAccess, type SourceOptions } from './index.js';

const { layout, image } = imagesLayout();
const sources = new Sources();
const open = sources.open.bind(sources);
afterEach(() => sources.close());
afterAll(() => layout.remove());

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
      await Promise.all(Array.from({ length: 20 }, (_, i) => fetchRange(source, image.digest, i, i + 10)));
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

  // Attack: a registry, or a host that answers in its place, names a token server to which the login goes unencrypted.
  test('a login goes to no token server without TLS, unless it is the registry itself', async () => {
    const { Authenticator } = await import('./auth.js');
    const { Transport } = await import('./transport.js');
    const transport = new Transport({});
    const challenged = (registry: string, realm: string): Promise<unknown> => {
      const headers = { 'www-authenticate': `Bearer realm="${realm}"` };
      const auth = new Authenticator(transport, new URL(registry).host, 'a/b', LOGIN);
      return auth.challenged({ url: new URL('/v2/', registry), headers }, 'loopback', null);
    };
    for (const registry of ['https://r.io', 'http://r.io', 'http://127.0.0.1:1', 'https://evil.example']) {
      expect(await failure(challenged(registry, 'http://evil.example/token'))).toMatchObject({
        code: 'UNAUTHORIZED',
        message: expect.stringMatching(/wants the login sent to evil\.example without TLS/),
      });
    }
    // The registry was itself asked without TLS: nothing more is revealed. Nobody listens there.
    expect((await failure(challenged('http://127.0.0.1:1', 'http://127.0.0.1:2/token'))).message).toMatch(
      /refuses connections/,
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
    expect((await fetchRange(source, digest, 2, 4)).length).toBe(2);
    server.close();
    server.closeAllConnections();
    setTimeout(() => {
      server = serve().listen(Number(port), '127.0.0.1');
    }, 300);
    expect(Buffer.from(await fetchRange(source, digest, 2, 4)).toString()).toBe('23');
    server.close();
    server.closeAllConnections();
    const before = source.counters.retries;
    expect((await failure(fetchRange(source, digest, 2, 4))).message).toBe(`${host} refuses connections`);
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
        const image = { registry: registry.host, repository: 'a/b' };
        const access = await captureAccess(image, {}, { DOCKER_CONFIG: home, SECRET: 'not passed on' });
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

test('a registry that asked for a login it had not wanted before is asked again, and heard when it wants none', async () => {
  const body = Buffer.from('0123456789');
  const digest = `sha256:${createHash('sha256').update(body).digest('hex')}`;
  let refuse = false;
  const server = createServer((_, response) => {
    if (refuse) response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
    else response.writeHead(206, { 'content-range': 'bytes 2-3/10' }).end(body.subarray(2, 4));
  });
  const { host } = new URL(await listen(server));
  try {
    const source = open(`${host}/a/b`, { credentials: null });
    expect(Buffer.from(await fetchRange(source, digest, 2, 4)).toString()).toBe('23');
    refuse = true;
    expect((await failure(fetchRange(source, digest, 2, 4))).code).toBe('UNAUTHORIZED');
    expect((await failure(fetchRange(source, digest, 2, 4))).code).toBe('UNAUTHORIZED');
    refuse = false;
    expect(Buffer.from(await fetchRange(source, digest, 2, 4)).toString()).toBe('23');
  } finally {
    server.close();
    server.closeAllConnections();
  }
});

describe('addresses', () => {
  test('IPv6 loopback', async () => {
    const server = createServer((_, response) => response.writeHead(206, { 'content-range': 'bytes 0-1/9' }).end('ab'));
    await new Promise<void>((resolve) => server.listen(0, '::1', resolve));
    const { port } = server.address() as { port: number };
    const source = open(`[::1]:${port}/a/b`);
    expect(Buffer.from(await fetchRange(source, `sha256:${'0'.repeat(64)}`, 0, 2)).toString()).toBe('ab');
    server.close();
    server.closeAllConnections();
  });
});

describe('a loopback registry', () => {
  test('is asked once what it speaks, whoever gives up waiting for it', async () => {
    let hellos = 0;
    const server = createServer((_, response) => response.writeHead(206, { 'content-range': 'bytes 0-1/9' }).end('ab'));
    // What is no HTTP: a ClientHello.
    server.on('clientError', (_, socket) => {
      hellos++;
      socket.end('HTTP/1.1 400 Bad Request\r\n\r\n');
    });
    const source = open((await listen(server)).replace('http://', '').concat('/a/b'));
    const digest = `sha256:${'0'.repeat(64)}`;
    const abort = new AbortController();
    const given = failure(fetchRange(source, digest, 0, 2, { signal: abort.signal }));
    const others = Array.from({ length: 5 }, () => fetchRange(source, digest, 0, 2));
    abort.abort();
    expect(await given).toMatchObject({ code: 'ABORTED' });
    for (const bytes of await Promise.all(others)) expect(Buffer.from(bytes).toString()).toBe('ab');
    expect(hellos).toBe(1);
    server.close();
    server.closeAllConnections();
  });
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
