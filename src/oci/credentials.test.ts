import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CredentialOrder } from './credential-order.js';
import { matchesImage } from './credential-plugins.js';
import { DockerCredentials } from './docker-config.js';

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
    await expect(lookUp('{', 'h.io')).rejects.toThrow(/config\.json are not JSON/);
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

describe('the order of logins', () => {
  let directory = '';
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'clip-logins-'));
  });
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  const auths = (host: string, text: string): object => ({ [host]: { auth: Buffer.from(text).toString('base64') } });
  /** Every place but the kubelet's has a login for h.io. */
  const full = (): Record<string, string> => {
    writeFileSync(join(directory, 'config.json'), JSON.stringify({ auths: auths('h.io', 'docker:p') }));
    writeFileSync(join(directory, 'auth.json'), JSON.stringify({ auths: auths('h.io', 'file:p') }));
    return {
      CLIP_REGISTRY_USER_H_IO: 'variables',
      CLIP_REGISTRY_PASS_H_IO: 'p',
      CLIP_OCI_AUTH: JSON.stringify(auths('h.io', 'json:p')),
      DOCKER_CONFIG: directory,
      HOME: directory,
    };
  };
  const provider = { name: 'mine', getCredentials: async () => ({ username: 'provider', password: 'p' }) };
  const user = async (env: Record<string, string>, mine?: typeof provider, host = 'h.io'): Promise<unknown> =>
    (await new CredentialOrder({ PATH: process.env.PATH, ...env }, mine).getCredentials(host, 'a/b'))?.username ?? null;

  test('environment, provider, files, anonymous', async () => {
    const { CLIP_REGISTRY_USER_H_IO: _, CLIP_REGISTRY_PASS_H_IO: __, ...json } = full();
    const { CLIP_OCI_AUTH: ___, ...docker } = json;
    expect(await user(full(), provider)).toBe('variables');
    expect(await user(json, provider)).toBe('json');
    expect(await user(docker, provider)).toBe('provider');
    expect(await user(docker)).toBe('docker');
    expect(await user({ ...docker, REGISTRY_AUTH_FILE: join(directory, 'auth.json') })).toBe('file');
    expect(await user(full(), undefined, 'other.io')).toBe(null);
    const nothing = { name: 'mine', getCredentials: async () => null };
    expect(await user(docker, nothing as unknown as typeof provider)).toBe('docker');
  });

  test('variables: names of hosts with ports, Docker Hub’s names, both shapes of JSON, and no password in an error', async () => {
    const login = (name: string): Record<string, string> => ({
      [`CLIP_REGISTRY_USER_${name}`]: 'u',
      [`CLIP_REGISTRY_PASS_${name}`]: 'geheim',
    });
    expect(await user(login('MY__REGISTRY_EXAMPLE_COM_5000'), undefined, 'my-registry.example.com:5000')).toBe('u');
    // Whoever owns a domain of a like name, and names it in an archive, must not get the login.
    expect(await user(login('MY_REGISTRY_EXAMPLE_COM'), undefined, 'my.registry.example.com')).toBe('u');
    expect(await user(login('MY_REGISTRY_EXAMPLE_COM'), undefined, 'my-registry.example.com')).toBe(null);
    for (const name of ['DOCKER_IO', 'INDEX_DOCKER_IO', 'REGISTRY_1_DOCKER_IO']) {
      expect(await user(login(name), undefined, 'docker.io')).toBe('u');
    }
    const entry = {
      'h.io/a': { username: 'namespace', password: 'geheim' },
      'h.io': { username: 'host', password: 'x' },
    };
    expect(await user({ CLIP_OCI_AUTH: JSON.stringify(entry) })).toBe('namespace');
    expect(await user({ CLIP_OCI_AUTH: JSON.stringify({ auths: entry }) })).toBe('namespace');
    for (const bad of [
      { CLIP_OCI_AUTH: '{"h.io": {"password": "geheim"' },
      { CLIP_OCI_AUTH: 'geheim' },
      { CLIP_REGISTRY_PASS_H_IO: 'geheim' },
      { CLIP_REGISTRY_USER_H_IO: 'geheim' },
    ]) {
      const error = await user(bad as Record<string, string>).catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({ code: expect.stringMatching(/BAD_FORMAT|USAGE/) });
      expect(JSON.stringify([(error as Error).message, error])).not.toContain('geheim');
    }
  });

  describe('plugins of the kubelet', () => {
    const config = (...providers: object[]): Record<string, string> => {
      const path = join(directory, 'plugins.yaml');
      const list = providers.map(
        (one) => `- ${JSON.stringify({ apiVersion: 'credentialprovider.kubelet.k8s.io/v1', ...one })}`,
      );
      writeFileSync(
        path,
        `apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n${list.join('\n')}\n`,
      );
      return {
        CLIP_CREDENTIAL_PROVIDER_CONFIG: path,
        CLIP_CREDENTIAL_PROVIDER_BIN_DIR: directory,
        HOME: '/nonexistent',
      };
    };
    const plugin = (name: string, script: string): void => {
      writeFileSync(join(directory, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
      chmodSync(join(directory, name), 0o755);
    };
    const answer = (auth: object): string =>
      `echo '${JSON.stringify({ kind: 'CredentialProviderResponse', apiVersion: 'credentialprovider.kubelet.k8s.io/v1', cacheKeyType: 'Image', auth })}'`;

    test('get the image as the kubelet gives it, with their arguments and variables', async () => {
      plugin(
        'echo',
        `read -r line; printf '%s' "$line" >${directory}/request; printf '%s %s' "$1" "$REGION" >${directory}/called\n${answer({ 'h.io': { username: 'plugin', password: 'p' } })}`,
      );
      const env = config({ name: 'echo', matchImages: ['h.io'], args: ['get'], env: [{ name: 'REGION', value: 'x' }] });
      expect(await user(env)).toBe('plugin');
      expect(JSON.parse(readFileSync(join(directory, 'request'), 'utf8'))).toEqual({
        apiVersion: 'credentialprovider.kubelet.k8s.io/v1',
        kind: 'CredentialProviderRequest',
        image: 'h.io/a/b',
      });
      expect(readFileSync(join(directory, 'called'), 'utf8')).toBe('get x');
      expect(await user(env, undefined, 'other.io')).toBe(null);
    });

    test('the most precise pattern of an answer wins', async () => {
      plugin(
        'many',
        answer({ '*.io': { username: 'any', password: 'p' }, 'h.io/a': { username: 'path', password: 'p' } }),
      );
      expect(await user(config({ name: 'many', matchImages: ['*.io'] }))).toBe('path');
      expect(await user(config({ name: 'many', matchImages: ['*.io'] }), undefined, 'i.io')).toBe('any');
    });

    test('what is wrong with them is said, without what they said on stdout', async () => {
      plugin('bad', 'echo "no role" >&2; exit 1');
      plugin('rubbish', 'echo geheim');
      const one = (name: string, more: object = {}): Promise<unknown> =>
        user(config({ name, matchImages: ['h.io'], ...more })).catch((error: unknown) => String(error));
      expect(await one('bad')).toMatch(/bad has no login for h\.io\/a\/b: no role/);
      expect(await one('missing')).toMatch(/missing cannot be run: ENOENT/);
      expect(await one('rubbish')).toMatch(/is not JSON/);
      expect(await one('rubbish')).not.toMatch(/geheim/);
      expect(await one('../evil')).toMatch(/without a path/);
      expect(await one('bad', { apiVersion: 'v2' })).toMatch(/apiVersion/);
      expect(await user({ CLIP_CREDENTIAL_PROVIDER_CONFIG: '/nonexistent' }).catch(String)).toMatch(
        /bin-dir|directory/,
      );
    });

    test.each([
      ['*.dkr.ecr.*.amazonaws.com', '1.dkr.ecr.eu-1.amazonaws.com', 'a', true],
      ['*.dkr.ecr.*.amazonaws.com', 'a.1.dkr.ecr.eu-1.amazonaws.com', 'a', false],
      ['*.azurecr.io', 'evil.com/x.azurecr.io', 'a', false],
      ['gcr.io', 'gcrxio', 'a', false],
      ['registry.io:8080/path', 'registry.io:8080', 'path/x', true],
      ['registry.io:8080/path', 'registry.io:8080', 'other', false],
      ['registry.io:8080', 'registry.io', 'a', false],
      ['k8s-*.io', 'k8s-a.io', 'a', true],
      ['https://gcr.io', 'gcr.io', 'a', true],
    ])('%s for %s/%s: %s', (pattern, registry, repository, matches) => {
      expect(matchesImage(pattern, registry, repository)).toBe(matches);
    });
  });
});
