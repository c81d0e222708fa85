import { describe, expect, test } from 'vitest';
import { parseManifest } from './manifest.js';

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
    ['no schema version', { layers: [] }, /no schemaVersion 2/],
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
