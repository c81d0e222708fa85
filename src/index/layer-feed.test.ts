import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import type { BlobTarget, ImageSource } from '../oci/index.js';
import { LayerFeed } from './layer-feed.js';

const SIZE = 40 << 20;
const CHUNK = 1 << 20;
const layer = { digest: 'sha256:x', size: SIZE, mediaType: '', diffId: '' };

/** A network that gives each chunk after `pause`, byte i of the blob being i / 1024. */
function network(pause: number): { source: ImageSource; requests: string[] } {
  const requests: string[] = [];
  const fill = (into: Uint8Array, at: number): void => {
    for (let i = 0; i < into.length; i += 1024) into.fill((at + i) >> 10, i, Math.min(i + 1024, into.length));
  };
  const source: Partial<ImageSource> = {
    remote: true,
    async scanBlob(_, size, target, { start = 0, signal } = {}) {
      requests.push(`from ${start >> 20}`);
      for (let at = start; at < size; at += CHUNK) {
        if (pause > 0) await sleep(pause);
        signal?.throwIfAborted();
        fill(target.room().subarray(0, CHUNK), at);
        await target.filled(CHUNK);
      }
    },
    async fetchInto(_, start, into, { signal }) {
      requests.push(`${start >> 20} to ${(start + into.length) >> 20}`);
      if (pause > 0) await sleep(pause);
      signal?.throwIfAborted();
      fill(into, start);
    },
  };
  return { source: source as ImageSource, requests };
}

/** A decoder that takes `pause` for each chunk. */
function decoder(pause: number): { target: BlobTarget; all: Uint8Array } {
  const all = new Uint8Array(SIZE);
  let at = 0;
  const target: BlobTarget = {
    room: () => all.subarray(at, at + CHUNK),
    filled: (bytes) => {
      at += bytes;
      return pause > 0 ? sleep(pause) : null;
    },
  };
  return { target, all };
}

function isWhole(all: Uint8Array): boolean {
  for (let i = 0; i < all.length; i += 512) if (all[i] !== ((i >> 10) & 0xff)) return false;
  return true;
}

test('one connection is left alone if the decoder is what takes the time', async () => {
  const { source, requests } = network(0);
  const { target, all } = decoder(20);
  await new LayerFeed(source, 1, undefined).feed(layer, target);
  expect(requests).toEqual(['from 0']);
  expect(isWhole(all)).toBe(true);
});

test('a connection that keeps the decoder waiting is followed by ranges; so are the next layers from their start', async () => {
  const { source, requests } = network(20);
  const feed = new LayerFeed(source, 1, undefined);
  const [one, two] = [decoder(0), decoder(0)];
  await feed.feed(layer, one.target);
  const ranges = ['16 to 20', '20 to 24', '24 to 28', '28 to 32', '32 to 36', '36 to 40'];
  expect(requests).toEqual(['from 0', ...ranges]);
  expect(isWhole(one.all)).toBe(true);
  requests.length = 0;
  feed.prepare(layer);
  await feed.feed(layer, two.target);
  expect(requests.slice(0, 3)).toEqual(['0 to 2', '2 to 6', '6 to 10']);
  expect(isWhole(two.all)).toBe(true);
});

test('memory is bounded: eight ranges of all lanes are under way or wait for the decoder', async () => {
  const { source, requests } = network(20);
  const feed = new LayerFeed(source, 4, undefined);
  const { target } = decoder(0);
  await feed.feed(layer, target);
  requests.length = 0;
  let taken = 0;
  const slow: BlobTarget = {
    room: () => new Uint8Array(CHUNK),
    filled: (bytes) => {
      taken += bytes;
      // Two pieces of this lane besides what was taken.
      expect(requests.length * 4 * CHUNK).toBeLessThanOrEqual(taken + 2 * 4 * CHUNK + 4 * CHUNK);
      return null;
    },
  };
  await feed.feed(layer, slow);
  expect(taken).toBe(SIZE);
});

test('a decoder that fails ends what is under way, with its reason', async () => {
  for (const pause of [0, 20]) {
    const { source } = network(pause);
    const failing: BlobTarget = {
      room: () => new Uint8Array(CHUNK),
      filled: () => Promise.reject(new Error('no tar')),
    };
    await expect(new LayerFeed(source, 1, undefined).feed(layer, failing)).rejects.toThrow('no tar');
  }
});

test('an abort ends it in either way of reading', async () => {
  const { source } = network(20);
  const controller = new AbortController();
  const feed = new LayerFeed(source, 1, controller.signal);
  let taken = 0;
  const target: BlobTarget = {
    room: () => new Uint8Array(CHUNK),
    filled: (bytes) => {
      taken += bytes;
      if (taken > 24 * CHUNK) controller.abort(new Error('enough'));
      return null;
    },
  };
  await expect(feed.feed(layer, target)).rejects.toThrow('enough');
  await expect(feed.feed(layer, target)).rejects.toThrow('enough');
});
