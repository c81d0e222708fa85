import { type ChildProcess, spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { createServer, request, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Clipctl } from '../support/clipctl.js';
import { layerLike } from '../support/gzip.js';
import { writeImage } from '../support/images.js';
import { eventually } from '../support/mounted.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';
import { file, tar } from '../support/tar.js';

// No image waits for another one's registry (docs/architecture.md, "Invariant 5").

const FILES = 40;
const SIZE = 1_200_000; // a span of its own at least
const honest = Array.from({ length: FILES }, (_, i) => layerLike(SIZE, 500 + i));
const slow = Array.from({ length: FILES }, (_, i) => layerLike(SIZE, 100 + i));

let clip: Clipctl;
let registry: TestRegistry;
let drip: DrippingRegistry;
const children: ChildProcess[] = [];

/** Passes requests on to a registry. Once it drips, the bytes of layers come one every 100 ms. */
class DrippingRegistry {
  readonly #server: Server;
  dripping = false;
  /** Layer requests under way. */
  open = 0;

  private constructor(upstream: string) {
    this.#server = createServer((incoming, outgoing) => {
      const onward = request(new URL(incoming.url!, upstream), { headers: { ...incoming.headers } }, (answer) => {
        outgoing.writeHead(answer.statusCode!, answer.headers);
        if (!this.dripping || !incoming.url!.includes('/blobs/')) {
          answer.pipe(outgoing);
          return;
        }
        this.open++;
        const timer = setInterval(() => outgoing.write('x'), 100);
        outgoing.once('close', () => {
          this.open--;
          clearInterval(timer);
          answer.destroy();
        });
      });
      onward.on('error', () => outgoing.destroy());
      onward.end();
    });
  }

  static async start(upstream: string): Promise<DrippingRegistry> {
    const made = new DrippingRegistry(upstream);
    await new Promise<void>((resolve) => made.#server.listen(0, '127.0.0.1', resolve));
    return made;
  }

  get host(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  stop(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }
}

beforeAll(async () => {
  clip = await Clipctl.create();
  registry = await startRegistry();
  drip = await DrippingRegistry.start(registry.url);
  for (const [name, contents, host] of [
    ['honest', honest, registry.host],
    ['slow', slow, drip.host],
  ] as const) {
    const image = writeImage([tar(...contents.map((content, i) => file(`f${i}`, content)))]);
    await registry.push(image.reference, `${name}:latest`);
    image.remove();
    await clip.ok(
      'index',
      '--image',
      `${host}/${name}:latest`,
      '--out',
      clip.path(`${name}.clip`),
      '--checkpoint',
      '1',
    );
  }
  // The layer of the honest image, from the registry that will drip.
  await clip.ok(
    ...['index', '--image', `${drip.host}/honest:latest`, '--out', clip.path('shared.clip'), '--checkpoint', '1'],
  );
});
afterAll(async () => {
  for (const child of children) child.kill('SIGKILL');
  await clip.close();
  drip.stop();
  await registry.stop();
});

async function mounted(own: Clipctl, name: string): Promise<string> {
  const place = await own.place(name);
  await own.ok('mount', '--clip', clip.path(`${name}.clip`), '--at', place, '--no-readahead', '--no-prefetch');
  return place;
}

function readers(place: string): ChildProcess[] {
  const started = Array.from({ length: FILES }, (_, i) =>
    spawn('dd', [`if=${place}/f${i}`, 'of=/dev/null', 'bs=4k', 'count=1', 'skip=100'], { stdio: 'ignore' }),
  );
  children.push(...started);
  return started;
}

/** Milliseconds of a cold read of 4 KiB in another process. */
async function read4k(place: string, index: number, expected: Uint8Array): Promise<number> {
  const started = performance.now();
  const child = spawn('dd', [`if=${place}/f${index}`, 'bs=4k', 'count=1', 'skip=100'], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const parts: Buffer[] = [];
  for await (const part of child.stdout) parts.push(part as Buffer);
  const ms = performance.now() - started;
  expect(Buffer.compare(Buffer.concat(parts), expected.subarray(409_600, 413_696))).toBe(0);
  return ms;
}

const LIMIT_MS = 1000;

test('40 readers of a dripping registry hold up no other image, and their requests end with them', async () => {
  const own = await Clipctl.create();
  try {
    const [bad, good] = [await mounted(own, 'slow'), await mounted(own, 'honest')];
    drip.dripping = true;
    const stuck = readers(bad);
    await eventually(() => drip.open >= 16);
    for (const index of [3, 13, 23]) expect(await read4k(good, index, honest[index]!)).toBeLessThan(LIMIT_MS);
    for (const child of stuck) child.kill('SIGKILL');
    expect(await read4k(good, 33, honest[33]!)).toBeLessThan(LIMIT_MS);
    await eventually(() => drip.open === 0);
  } finally {
    drip.dripping = false;
    await own.close();
  }
});

test('a layer that is shared with an image of a dripping registry comes from the reader’s own', async () => {
  const own = await Clipctl.create();
  try {
    const [bad, good] = [await mounted(own, 'shared'), await mounted(own, 'honest')];
    drip.dripping = true;
    readers(bad);
    await eventually(() => drip.open >= 16);
    for (const index of [2, 12, 22]) expect(await read4k(good, index, honest[index]!)).toBeLessThan(LIMIT_MS);
    expect(Buffer.compare(await readFile(`${good}/f30`), honest[30]!)).toBe(0);
  } finally {
    drip.dripping = false;
    await own.close();
  }
});
