import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createFromOCIImage } from '../../src/index/index.js';
import { type TestImage, writeImage } from '../support/images.js';
import { type ProxiedRequest, type ProxyOptions, startProxy } from '../support/proxy.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';
import { file, tar } from '../support/tar.js';

/** Bytes per second: less than the decoder takes on any machine, however busy. */
const SLOW = 8e6;

const directory = mkdtempSync(join(tmpdir(), 'clip-network-'));
let registry: TestRegistry;
let image: TestImage;
let wanted: Buffer;
/** Of the layers, base first. */
let digests: string[];
let sizes: number[];

const index = async (imageRef: string): Promise<Buffer> => {
  const outputPath = join(directory, 'out.clip');
  const result = await createFromOCIImage({ imageRef, outputPath });
  digests = result.image.layers.map(({ digest }) => digest);
  sizes = result.image.layers.map(({ size }) => size);
  return readFileSync(outputPath);
};

beforeAll(async () => {
  registry = await startRegistry();
  // Random bytes, so that a layer's blob is as long as its files.
  image = writeImage([
    tar(file('large', randomBytes(36 << 20))),
    tar(file('second', randomBytes(22 << 20))),
    tar(file('small', 'small')),
    // More than a machine indexes at a time.
    ...Array.from({ length: 5 }, (_, i) => tar(file(`another${i}`, randomBytes(3 << 20)))),
  ]);
  await registry.push(image.reference, 'team/app:1');
  wanted = await index(image.reference);
});
afterAll(async () => {
  await registry?.stop();
  image?.remove();
  rmSync(directory, { recursive: true, force: true });
});

interface Ran {
  readonly bytes: Buffer;
  readonly requests: readonly ProxiedRequest[];
}

/** Through a proxy. The archive names it as the place of the layers: the same length, other digits. */
async function through(
  options: Partial<ProxyOptions>,
  fault: ((request: ProxiedRequest) => object | null) | null = null,
): Promise<Ran> {
  const proxy = await startProxy({ upstream: registry.url, ...options });
  proxy.fault = fault;
  try {
    const bytes = await index(`${proxy.host}/team/app:1`);
    return { bytes, requests: proxy.requests.filter(({ path }) => path.includes('/blobs/')) };
  } finally {
    await proxy.stop();
  }
}

const of = (requests: readonly ProxiedRequest[], layer: number): ProxiedRequest[] =>
  requests.filter(({ path }) => path.endsWith(digests[layer]!));
const received = (requests: readonly ProxiedRequest[]): number => requests.reduce((sum, { bytes }) => sum + bytes, 0);

/** Sections that do not depend on where the layers are: all but the image's. */
function sameLayers(made: Buffer): boolean {
  const tail = (bytes: Buffer): Buffer => bytes.subarray(bytes.length - wanted.length / 2);
  return tail(made).equals(tail(wanted));
}

test('a layer that follows another one has its first bytes fetched meanwhile', async () => {
  const { bytes, requests } = await through({});
  expect(sameLayers(bytes)).toBe(true);
  const prepared = [3, 4, 5, 6, 7].filter((layer) => of(requests, layer)[0]!.range !== null);
  expect(prepared.length).toBeGreaterThan(0);
  for (const layer of prepared) {
    const ranges = of(requests, layer).map(({ range }) => range);
    expect(ranges).toEqual(['bytes=0-2097151', `bytes=2097152-${sizes[layer]! - 1}`]);
  }
  expect(of(requests, 2).length).toBe(1);
});

test('where a connection is slow, the rest of a layer comes in ranges side by side', async () => {
  const { bytes, requests } = await through({ connectionBytesPerSecond: SLOW });
  expect(sameLayers(bytes)).toBe(true);
  const first = of(requests, 0);
  expect(first[0]!.range).toBeNull();
  // From where the first connection was left.
  const ranges = first.slice(1);
  expect(ranges.length).toBeGreaterThan(3);
  expect(ranges.every(({ range, status }) => range !== null && status === 206)).toBe(true);
  const sideBySide = ranges.filter((one) =>
    ranges.some((other) => other !== one && other.startedAt <= one.sentAt && one.startedAt <= other.sentAt),
  );
  expect(sideBySide.length).toBeGreaterThan(3);
  // Nothing is fetched twice but what was on its way when the first connection was left.
  expect(received(ranges)).toBeLessThanOrEqual(sizes[0]! - (16 << 20));
});

test('ranges that break are taken up again, and each byte is the right one', async () => {
  let n = 0;
  const { bytes, requests } = await through({ connectionBytesPerSecond: SLOW }, ({ path, range }) => {
    if (!digests.slice(0, 2).some((digest) => path.endsWith(digest)) || range === null) return null;
    return n++ % 3 === 0 ? { resetAfter: 1_000_000 } : n % 3 === 1 ? { respond: { status: 503 } } : null;
  });
  expect(sameLayers(bytes)).toBe(true);
  expect(requests.filter(({ complete }) => !complete).length).toBeGreaterThan(3);
});

test('a blob that is lost on the way ends the build with its reason, and leaves nothing running', async () => {
  const lost = through({ connectionBytesPerSecond: SLOW }, ({ path, range }) => {
    if (!path.endsWith(digests[0]!) || range === null) return null;
    return { respond: { status: 404, body: '{"errors":[{"code":"BLOB_UNKNOWN"}]}' } };
  });
  await expect(lost).rejects.toMatchObject({ code: 'NOT_FOUND' });
});
