import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseChallenges } from './auth.js';
import { DockerCredentials } from './credentials.js';
import { parseManifest } from './manifest.js';
import { formatPlatform, hostPlatform, parsePlatform, platformScore } from './platform.js';
import { isLoopback } from './probe.js';
import { proxyFor, proxyFromEnvironment } from './proxy.js';

describe('WWW-Authenticate', () => {
  test.each([
    [
      'Bearer realm="https://a/t",service="s",scope="repository:x/y:pull,push"',
      [{ scheme: 'bearer', params: { realm: 'https://a/t', service: 's', scope: 'repository:x/y:pull,push' } }],
    ],
    ['Basic realm="a \\"quoted\\" one"', [{ scheme: 'basic', params: { realm: 'a "quoted" one' } }]],
    [
      'Negotiate, Basic realm=x , BEARER Realm = "r", error="invalid_token"',
      [
        { scheme: 'negotiate', params: {} },
        { scheme: 'basic', params: { realm: 'x' } },
        { scheme: 'bearer', params: { realm: 'r', error: 'invalid_token' } },
      ],
    ],
    ['', []],
    ['"', []],
    [
      'Bearer realm="unterminated',
      [
        { scheme: 'bearer', params: {} },
        { scheme: 'realm', params: {} },
        { scheme: 'unterminated', params: {} },
      ],
    ],
  ])('%s', (header, expected) => {
    expect(parseChallenges(header)).toEqual(expected);
  });
});

describe('platforms', () => {
  test('parsing, with the aliases people write', () => {
    expect(parsePlatform('linux/amd64')).toEqual({ os: 'linux', architecture: 'amd64' });
    expect(parsePlatform('Linux/aarch64')).toEqual({ os: 'linux', architecture: 'arm64' });
    expect(parsePlatform('linux/arm/v7')).toEqual({ os: 'linux', architecture: 'arm', variant: 'v7' });
    expect(formatPlatform({ os: 'linux', architecture: 'arm', variant: 'v6' })).toBe('linux/arm/v6');
    for (const bad of ['', 'linux', 'linux/', 'a/b/c/d', 'linux/amd 64'])
      expect(() => parsePlatform(bad)).toThrow(/is not a platform/);
  });

  test('what runs where', () => {
    const score = (wanted: string, offered: string): number =>
      platformScore(parsePlatform(wanted), parsePlatform(offered));
    expect(score('linux/amd64', 'linux/amd64')).toBeGreaterThan(0);
    expect(score('linux/amd64', 'linux/amd64/v1')).toBe(score('linux/amd64', 'linux/amd64'));
    expect(score('linux/amd64', 'linux/amd64/v3')).toBe(0);
    expect(score('linux/amd64/v3', 'linux/amd64')).toBeGreaterThan(0);
    expect(score('linux/arm64', 'linux/arm64/v8')).toBeGreaterThan(0);
    expect(score('linux/arm', 'linux/arm/v7')).toBeGreaterThan(score('linux/arm', 'linux/arm/v6'));
    expect(score('linux/arm', 'linux/arm/v6')).toBeGreaterThan(score('linux/arm', 'linux/arm/v5'));
    expect(score('linux/arm/v6', 'linux/arm/v7')).toBe(0);
    expect(score('linux/amd64', 'windows/amd64')).toBe(0);
    expect(score('linux/amd64', 'linux/arm64')).toBe(0);
    expect(hostPlatform().os).toBe('linux');
  });
});

describe('proxies', () => {
  const of = (url: string, env: Record<string, string>): string | null =>
    proxyFor(new URL(url), proxyFromEnvironment(env));
  const env = { HTTPS_PROXY: 'http://p:3128', HTTP_PROXY: 'q:8080' };
  test('by scheme, never for loopback', () => {
    expect(of('https://ghcr.io/', env)).toBe('http://p:3128');
    expect(of('http://ghcr.io/', env)).toBe('http://q:8080');
    for (const host of ['127.0.0.1:5000', 'localhost', '[::1]:5000', '127.8.9.1', 'a.localhost'])
      expect(of(`https://${host}/`, env)).toBe(null);
    expect(of('https://ghcr.io/', {})).toBe(null);
    expect(of('https://ghcr.io/', { ALL_PROXY: 'socks5://s' })).toBe('socks5://s');
    expect(of('https://ghcr.io/', { ...env, https_proxy: 'http://lower' })).toBe('http://lower');
    // httpoxy
    expect(of('http://ghcr.io/', { HTTP_PROXY: 'http://evil', REQUEST_METHOD: 'GET' })).toBe(null);
  });
  test.each([
    ['*', true],
    ['ghcr.io', true],
    ['GHCR.io', true],
    ['io', true],
    ['.io', true],
    ['*.io', true],
    ['.ghcr.io', false],
    ['hcr.io', false],
    ['ghcr.io:443', true],
    ['ghcr.io:5000', false],
    ['a.b, ghcr.io', true],
    ['', false],
  ])('NO_PROXY=%s', (no, exempt) => {
    expect(of('https://ghcr.io/', { ...env, NO_PROXY: no }) === null).toBe(exempt);
  });
  test.each([
    ['10.1.2.3', true],
    ['10.0.0.0/8', true],
    ['10.1.2.0/30', true],
    ['10.1.3.0/24', false],
    ['10.1.2.0/99', false],
    ['fd00::/8', false],
  ])('NO_PROXY=%s for 10.1.2.3', (no, exempt) => {
    expect(of('https://10.1.2.3/', { ...env, NO_PROXY: no }) === null).toBe(exempt);
  });
  test('loopback by name and number', () => {
    expect(isLoopback('128.0.0.1') || isLoopback('localhost.evil.com') || isLoopback('127.0.0.1.nip.io')).toBe(false);
  });
});

describe('manifests', () => {
  const digest = `sha256:${'0'.repeat(64)}`;
  const parse = (value: unknown, type = ''): unknown =>
    parseManifest(Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)), type, 'm');
  const good = { schemaVersion: 2, config: { digest, size: 1, mediaType: 'c' }, layers: [] };
  test.each([
    ['nothing', '', /m is not JSON/],
    ['a web page', '<html>', /m is not JSON/],
    ['an array', [], /not a JSON object/],
    ['invalid UTF-8', '\udc80"', /m is not JSON/],
    ['schema 1', { schemaVersion: 1 }, /schema 1/],
    ['no schema version', { layers: [] }, /schemaVersion undefined/],
    ['both a manifest and an index (CVE-2021-41190)', { ...good, manifests: [] }, /at once/],
    ['no layers', { schemaVersion: 2, config: good.config }, /no list of layers/],
    ['no config', { schemaVersion: 2, layers: [] }, /config is not an object/],
    [
      'a digest with a path in it',
      { ...good, layers: [{ digest: 'sha256:../../etc/passwd', size: 1 }] },
      /layers\[0\]\.digest is not a digest/,
    ],
    ['a short digest', { ...good, layers: [{ digest: 'sha256:00', size: 1 }] }, /is not a digest/],
    ['a negative size', { ...good, layers: [{ digest, size: -1 }] }, /size is not a byte count/],
    ['a size beyond 2^53', { ...good, layers: [{ digest, size: 2 ** 60 }] }, /size is not a byte count/],
    ['a size as text', { ...good, layers: [{ digest, size: '1' }] }, /size is not a byte count/],
    ['too many layers', { ...good, layers: Array(1025).fill({ digest, size: 1 }) }, /1025 layers/],
  ])('%s is refused', (_name, value, message) => {
    expect(() => parse(value)).toThrow(message);
  });
  test('the body decides over the Content-Type', () => {
    expect(() => parse(good, 'application/vnd.oci.image.index.v1+json; charset=utf-8')).toThrow(
      /without a list of manifests/,
    );
    expect(parse(good, 'application/octet-stream')).toMatchObject({ kind: 'manifest' });
    expect(
      parse(
        { ...good, mediaType: 'application/vnd.oci.image.manifest.v1+json' },
        'application/vnd.oci.image.index.v1+json',
      ),
    ).toMatchObject({ kind: 'manifest' });
    expect(() => parse({ schemaVersion: 2 }, 'application/vnd.docker.distribution.manifest.v1+prettyjws')).toThrow(
      /schema 1/,
    );
  });
});

describe('Docker credentials', () => {
  let directory = '';
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'clip-credentials-'));
  });
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  const auth = (text: string): { auth: string } => ({ auth: Buffer.from(text).toString('base64') });
  const lookUp = (
    config: unknown,
    registry: string,
    repository = 'a/b',
    env: Record<string, string> = {},
  ): Promise<unknown> => {
    writeFileSync(join(directory, 'config.json'), typeof config === 'string' ? config : JSON.stringify(config));
    return new DockerCredentials({ DOCKER_CONFIG: directory, PATH: process.env.PATH, ...env }).getCredentials(
      registry,
      repository,
    );
  };
  const helper = (name: string, script: string): void => {
    mkdirSync(join(directory, 'bin'), { recursive: true });
    writeFileSync(join(directory, 'bin', `docker-credential-${name}`), `#!/bin/sh\n${script}\n`);
    chmodSync(join(directory, 'bin', `docker-credential-${name}`), 0o755);
  };
  const withHelpers = (): Record<string, string> => ({ PATH: `${join(directory, 'bin')}:${process.env.PATH}` });

  test('auths, by host, URL or namespace', async () => {
    expect(await lookUp({ auths: { 'ghcr.io': auth('u:p:with:colons') } }, 'ghcr.io')).toEqual({
      username: 'u',
      password: 'p:with:colons',
    });
    expect(await lookUp({ auths: { 'https://ghcr.io/v2/': auth('u:p') } }, 'ghcr.io')).toEqual({
      username: 'u',
      password: 'p',
    });
    expect(await lookUp({ auths: { 'https://index.docker.io/v1/': auth('u:p') } }, 'docker.io')).toEqual({
      username: 'u',
      password: 'p',
    });
    expect(await lookUp({ auths: { 'h.io': auth('u:p'), 'h.io/a': auth('ns:p') } }, 'h.io', 'a/b')).toMatchObject({
      username: 'ns',
    });
    expect(await lookUp({ auths: { 'h.io': auth('u:p'), 'h.io/a': auth('ns:p') } }, 'h.io', 'c')).toMatchObject({
      username: 'u',
    });
    expect(await lookUp({ auths: { 'h.io': { username: 'u', password: 'p' } } }, 'h.io')).toEqual({
      username: 'u',
      password: 'p',
    });
    expect(await lookUp({ auths: { 'h.io': { ...auth('u:p'), identitytoken: 'it' } } }, 'h.io')).toEqual({
      identityToken: 'it',
    });
    expect(await lookUp({ auths: { 'h.io': { registrytoken: 'rt' } } }, 'h.io')).toEqual({ registryToken: 'rt' });
    expect(await lookUp({ auths: { 'evilh.io': auth('u:p'), 'h.io.evil': auth('u:p') } }, 'h.io')).toBe(null);
    expect(await lookUp({}, 'h.io')).toBe(null);
    expect(await lookUp('', 'h.io')).toBe(null);
  });

  test('broken files are named', async () => {
    await expect(lookUp('{', 'h.io')).rejects.toThrow(/config\.json is not JSON/);
    await expect(lookUp({ auths: { 'h.io': auth('nocolon') } }, 'h.io')).rejects.toThrow(/not base64 of user:password/);
    await expect(lookUp({}, 'h.io', 'a', { REGISTRY_AUTH_FILE: '/nonexistent' })).rejects.toThrow(
      /cannot read .* \/nonexistent: ENOENT/,
    );
  });

  test('REGISTRY_AUTH_FILE stands alone; podman’s file comes before Docker’s', async () => {
    const other = join(directory, 'other.json');
    writeFileSync(other, JSON.stringify({ auths: { 'h.io': auth('other:p') } }));
    expect(
      await lookUp({ auths: { 'h.io': auth('docker:p') } }, 'h.io', 'a', { REGISTRY_AUTH_FILE: other }),
    ).toMatchObject({ username: 'other' });
    mkdirSync(join(directory, 'run/containers'), { recursive: true });
    writeFileSync(join(directory, 'run/containers/auth.json'), JSON.stringify({ auths: { 'h.io': auth('podman:p') } }));
    const env = { XDG_RUNTIME_DIR: join(directory, 'run') };
    expect(await lookUp({ auths: { 'h.io': auth('docker:p') } }, 'h.io', 'a', env)).toMatchObject({
      username: 'podman',
    });
    expect(await lookUp({ auths: { 'i.io': auth('docker:p') } }, 'i.io', 'a', env)).toMatchObject({
      username: 'docker',
    });
  });

  test('credential helpers', async () => {
    helper('good', 'read server; printf \'{"ServerURL":"%s","Username":"for-%s","Secret":"s"}\' "$server" "$server"');
    helper('token', 'cat >/dev/null; echo \'{"Username":"<token>","Secret":"it"}\'');
    helper('none', 'cat >/dev/null; echo "credentials not found in native keychain"; exit 1');
    helper('bad', 'echo "keyring is locked" >&2; exit 3');
    const env = withHelpers();
    expect(await lookUp({ credHelpers: { 'h.io': 'good' } }, 'h.io', 'a', env)).toEqual({
      username: 'for-h.io',
      password: 's',
    });
    expect(await lookUp({ credHelpers: { 'docker.io': 'good' } }, 'docker.io', 'a', env)).toMatchObject({
      username: 'for-https://index.docker.io/v1/',
    });
    expect(await lookUp({ credsStore: 'token' }, 'h.io', 'a', env)).toEqual({ identityToken: 'it' });
    expect(await lookUp({ credsStore: 'none', auths: { 'h.io': {} } }, 'h.io', 'a', env)).toBe(null);
    expect(await lookUp({ credsStore: 'none', auths: { 'h.io': auth('u:p') } }, 'h.io', 'a', env)).toMatchObject({
      username: 'u',
    });
    await expect(lookUp({ credsStore: 'bad' }, 'h.io', 'a', env)).rejects.toThrow(
      /docker-credential-bad gives no login for h\.io: keyring is locked/,
    );
    await expect(lookUp({ credsStore: 'missing' }, 'h.io', 'a', env)).rejects.toThrow(
      /docker-credential-missing cannot be run: ENOENT/,
    );
    await expect(lookUp({ credsStore: '../evil' }, 'h.io', 'a', env)).rejects.toThrow(/is not a credential helper/);
  });
});
