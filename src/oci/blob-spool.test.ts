import { createHash, randomBytes } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { createServer, type ServerResponse } from 'node:http';
import { afterEach, expect, test } from 'vitest';
import { fetchRange, listen, Sources } from '../../test/support/sources.js';
import type { ImageSource } from './index.js';

const BLOB = randomBytes(24 << 20);
const digest = `sha256:${createHash('sha256').update(BLOB).digest('hex')}`;
const size = BLOB.length;
const sources = new Sources();
const undo: (() => void)[] = [];
afterEach(async () => {
  await sources.close();
  for (const step of undo.splice(0)) step();
});

/** A registry that answers every request for a blob with all of it, as `send` says. */
async function registry(
  send: (response: ServerResponse, n: number) => void,
): Promise<{ source: ImageSource; bodies: () => number }> {
  let requests = 0;
  const server = createServer((_, response) => {
    response.on('error', () => {});
    response.writeHead(200, { 'content-length': size });
    send(response, requests++);
  });
  const { host } = new URL(await listen(server));
  undo.push(() => {
    server.closeAllConnections();
    server.close();
  });
  return { source: sources.open(`${host}/a/b`), bodies: () => requests };
}

async function into(source: ImageSource, start: number, length = 50_000): Promise<void> {
  const bytes = new Uint8Array(length);
  await source.fetchInto(digest, start, bytes, { size });
  expect(Buffer.from(bytes).equals(BLOB.subarray(start, start + length))).toBe(true);
}

test('a blob of a server without ranges is fetched once, and read by all from there', async () => {
  const { source, bodies } = await registry((response) => response.end(BLOB));
  const starts = Array.from({ length: 64 }, (_, i) => 8_500_000 + i * 250_000);
  await Promise.all(starts.map((start) => into(source, start)));
  const asked = bodies();
  for (const start of starts) await into(source, start);
  expect((await fetchRange(source, digest, 0, size, { size })).equals(BLOB)).toBe(true);
  // The later reads cost nothing at all.
  expect(bodies()).toBe(asked);
  const left = (name: string): boolean => name.startsWith('clip-spool');
  expect(readdirSync(process.env.TMPDIR ?? '/var/tmp').filter(left)).toEqual([]);
});

test('a reader has its bytes as soon as they have passed, long before the end', async () => {
  let finish: () => void = () => {};
  const { source } = await registry((response) => {
    response.write(BLOB.subarray(0, 12 << 20));
    finish = () => response.end(BLOB.subarray(12 << 20));
  });
  await into(source, 10 << 20);
  const later = into(source, 20 << 20);
  finish();
  await later;
});

test('one that breaks, or whose bytes are others, is fetched again', async () => {
  const other = Buffer.from(BLOB);
  other[0]! ^= 1;
  const { source } = await registry((response, n) => {
    if (n < 4) {
      response.write(BLOB.subarray(0, 9 << 20));
      setTimeout(() => response.destroy(), 5);
    } else response.end(n < 6 ? other : BLOB);
  });
  await into(source, 15 << 20);
  await into(source, 16 << 20);
  // Its readers compare spans themselves. Once all of it has come, the wrong copy is not read any more.
  const right = async (): Promise<boolean> =>
    (await fetchRange(source, digest, 0, 100, { size })).equals(BLOB.subarray(0, 100));
  while (!(await right())) await new Promise((resolve) => setTimeout(resolve, 5));
});
