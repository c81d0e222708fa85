import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DockerCredentials } from './credentials.js';

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
