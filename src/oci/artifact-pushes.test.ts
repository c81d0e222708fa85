import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { layerLike } from '../../test/support/gzip.js';
import { type RegistryProxy, startProxy } from '../../test/support/proxy.js';
import { LOGIN, startRegistry, type TestRegistry } from '../../test/support/registry.js';
import type { ArtifactRepository } from './artifacts.js';
import { digestOf } from './digest.js';
import { openArtifacts } from './index.js';

const EMPTY_DIGEST = digestOf(Buffer.from('{}'));

describe.each([{ auth: 'none' }, { auth: 'token' }] as const)('pushes to a registry, auth: $auth', ({ auth }) => {
  let registry: TestRegistry;
  let proxy: RegistryProxy;
  const opened: ArtifactRepository[] = [];
  const open = async (repository: string): Promise<ArtifactRepository> => {
    const credentials = auth === 'none' ? null : LOGIN;
    const artifacts = await openArtifacts({ registry: proxy.host, repository }, { credentials }, { push: true });
    opened.push(artifacts);
    return artifacts;
  };
  beforeAll(async () => {
    registry = await startRegistry({ auth });
    proxy = await startProxy({ upstream: registry.url });
  });
  afterEach(async () => {
    proxy.fault = null;
    proxy.reset();
    for (const artifacts of opened.splice(0)) await artifacts.close();
  });
  afterAll(async () => {
    await proxy?.stop();
    await registry?.stop();
  });

  // Each upload of a blob has docker-registry empty the file that links it, and refuse manifests with the blob until that is written.
  test('upload the config that they share once, before the first manifest that refers to it', async () => {
    const pushAll = async (round: number): Promise<void> => {
      const artifacts = await open('team/shared');
      const tags = Array.from({ length: 12 }, (_, i) => `t${round}-${i}`);
      const pushed = await Promise.all(tags.map((tag) => artifacts.pushLayer(Buffer.from(tag), tag)));
      expect(pushed.every(({ changed }) => changed)).toBe(true);
      for (const tag of tags) expect(String(await artifacts.fetchLayer(tag))).toBe(tag);
    };
    const configs = (): RegistryProxy['requests'] =>
      proxy.requests.filter((r) => r.method !== 'HEAD' && r.path.includes(encodeURIComponent(EMPTY_DIGEST)));
    let early = 0;
    proxy.fault = ({ method, path }) => {
      const underWay = configs().some(({ complete, status }) => !complete || status >= 300);
      if (method === 'PUT' && path.includes('/manifests/') && (configs().length === 0 || underWay)) early++;
      return null;
    };
    await pushAll(0);
    expect(configs().map(({ method }) => method)).toEqual(['POST', 'PUT']);
    expect(early).toBe(0);
    // Another process finds it there.
    await pushAll(1);
    expect(configs().length).toBe(2);
  });

  test('try a manifest again that is refused while another client stores its config', async () => {
    const artifacts = await open('team/link');
    await artifacts.pushLayer(Buffer.from('first'), 'first');
    const hex = EMPTY_DIGEST.slice('sha256:'.length);
    const link = join(registry.storage, 'docker/registry/v2/repositories/team/link/_layers/sha256', hex, 'link');
    const content = readFileSync(link, 'utf8');
    expect(content).toBe(EMPTY_DIGEST);
    truncateSync(link);
    const statuses: number[] = [];
    proxy.fault = ({ method, path }) => {
      if (method !== 'PUT' || !path.includes('/manifests/')) return null;
      statuses.push(...proxy.requests.filter((r) => r.method === 'PUT' && r.status === 400).map((r) => r.status));
      if (statuses.length > 0) writeFileSync(link, content);
      return null;
    };
    await artifacts.pushLayer(Buffer.from('second'), 'second');
    expect(statuses).toEqual([400]);
    expect(String(await artifacts.fetchLayer('second'))).toBe('second');
  });

  const bytes = layerLike(3_000_000, auth === 'none' ? 21 : 22);
  const stored = (): boolean => readFileSync(registry.blobPath(digestOf(bytes))).equals(bytes);
  const isUpload = ({ method, path }: { method: string; path: string }): boolean =>
    method === 'PUT' && path.includes('/uploads/') && path.includes(encodeURIComponent(digestOf(bytes)));

  // A kept-alive connection that breaks had the same PUT sent again, to an upload that held a part of it already.
  test('begin an upload anew, with the first byte, that is reset in the middle of its body', async () => {
    const artifacts = await open('team/reset');
    let resets = 0;
    proxy.fault = (request) => (isUpload(request) && resets++ < 2 ? { resetRequestAfter: 1_000_000 } : null);
    await artifacts.pushLayer(bytes, 'reset');
    const uploads = proxy.requests.filter(isUpload).map(({ path }) => path.split('?')[0]);
    expect(uploads.length).toBe(3);
    expect(new Set(uploads).size).toBe(3);
    expect(proxy.requests.filter(({ method }) => method === 'PATCH')).toEqual([]);
    expect(stored()).toBe(true);
  });

  if (auth === 'none') return;

  test('send the whole body again after a 401', async () => {
    const artifacts = await open('team/refused');
    const challenge = (await fetch(`${registry.url}/v2/`)).headers.get('www-authenticate')!;
    const scoped = `${challenge},scope="repository:team/refused:pull,push"`;
    let refused = 0;
    proxy.fault = (request) =>
      isUpload(request) && refused++ === 0
        ? { respond: { status: 401, headers: { 'www-authenticate': scoped } } }
        : null;
    await artifacts.pushLayer(bytes, 'refused');
    expect(refused).toBe(2);
    expect(stored()).toBe(true);
    expect(Buffer.from((await artifacts.fetchLayer('refused'))!).equals(bytes)).toBe(true);
  });
});
