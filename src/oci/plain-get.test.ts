import { createServer, type Server } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { SlottedTarget } from '../../test/support/blob-target.js';
import { plainGet, plainGetSmall } from './plain-get.js';

let server: Server | null = null;
afterEach(() => {
  server?.close();
  server = null;
});

/** A server that answers any request with these pieces, one write each. */
async function serve(...pieces: (string | Buffer)[]): Promise<URL> {
  const made = createServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', async () => {
      for (const piece of pieces) {
        socket.write(piece);
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      socket.end();
    });
  });
  server = made;
  await new Promise<void>((resolve) => made.listen(0, '127.0.0.1', resolve));
  return new URL(`http://127.0.0.1:${(made.address() as { port: number }).port}/v2/x/blobs/y`);
}

async function get(url: URL, size: number, signal?: AbortSignal): Promise<Buffer> {
  const target = new SlottedTarget(100_000);
  const length = await plainGet(url, { 'accept-encoding': 'identity' }, size, target, signal);
  expect(target.bytes.length).toBe(length);
  return target.bytes;
}

const BODY = Buffer.alloc(3_000_000, 'clip');
const head = (fields: string, status = '200 OK'): string => `HTTP/1.1 ${status}\r\n${fields}\r\n\r\n`;

describe('plainGet', () => {
  test('gives the body, however the head is cut up', async () => {
    const whole = head(`Content-Length: ${BODY.length}\r\nX: y`);
    expect((await get(await serve(whole, BODY), BODY.length)).equals(BODY)).toBe(true);
    const byByte = [...whole].map((c) => c);
    expect((await get(await serve(...byByte, BODY.subarray(0, 9), BODY.subarray(9)), BODY.length)).equals(BODY)).toBe(
      true,
    );
    expect((await get(await serve(Buffer.concat([Buffer.from(whole), BODY])), BODY.length)).equals(BODY)).toBe(true);
  });

  test.each([
    ['another status', head('Content-Length: 4', '206 Partial Content')],
    ['a redirect', head('Location: /elsewhere\r\nContent-Length: 4', '307 Temporary Redirect')],
    ['another length', head('Content-Length: 5')],
    ['two lengths', head('Content-Length: 4\r\nContent-Length: 4')],
    ['no length', head('Connection: close')],
    ['chunks', head('Transfer-Encoding: chunked\r\nContent-Length: 4')],
    ['an encoding', head('Content-Encoding: gzip\r\nContent-Length: 4')],
    ['something that is not HTTP', 'SSH-2.0-OpenSSH\r\n\r\n'],
    ['an endless head', `HTTP/1.1 200 OK\r\n${'a: b\r\n'.repeat(20_000)}`],
  ])('leaves %s to a real client', async (_, answer) => {
    expect((await get(await serve(answer, 'body'), 4)).length).toBe(0);
  });

  test('a connection that ends early, or is refused, ends the iteration early', async () => {
    const cut = await get(await serve(head('Content-Length: 100'), BODY.subarray(0, 60)), 100);
    expect(cut.equals(BODY.subarray(0, 60))).toBe(true);
    expect((await get(new URL('http://127.0.0.1:1/x'), 4)).length).toBe(0);
  });

  test('ends when aborted', async () => {
    const controller = new AbortController();
    const url = await serve(head('Content-Length: 100'), 'abc', ...Array.from({ length: 90 }, () => 'x'));
    setTimeout(() => controller.abort(), 50);
    expect((await get(url, 100, controller.signal)).length).toBeLessThan(100);
  });
});

describe('plainGetSmall', () => {
  const answer = head('Content-Length: 4\r\nX-Name: value');

  test('gives head and body, however they are cut up', async () => {
    for (const pieces of [
      [`${answer}body`],
      [answer, 'bo', 'dy'],
      [...answer, ...'body'],
      [`${answer}body and more`],
    ]) {
      const got = await plainGetSmall(await serve(...pieces), {}, 4);
      expect(got?.bytes.toString()).toBe('body');
      expect(got?.head.values('x-name')).toEqual(['value']);
    }
  });

  test.each([
    ['another status', [head('Content-Length: 4', '401 Unauthorized'), 'body']],
    ['more than the limit', [head('Content-Length: 5'), 'body!']],
    ['no length', [head('Connection: close'), 'body']],
    ['a body cut short', [answer, 'bod']],
    ['an endless head', [`HTTP/1.1 200 OK\r\n${'a: b\r\n'.repeat(20_000)}`]],
  ])('leaves %s to a real client', async (_, pieces) => {
    expect(await plainGetSmall(await serve(...pieces), {}, 4)).toBeNull();
  });

  test('gives up when nothing listens, and when aborted', async () => {
    expect(await plainGetSmall(new URL('http://127.0.0.1:1/x'), {}, 4)).toBeNull();
    const controller = new AbortController();
    const url = await serve(answer, ...Array.from({ length: 90 }, () => ''));
    setTimeout(() => controller.abort(), 30);
    expect(await plainGetSmall(url, {}, 4, controller.signal)).toBeNull();
  });
});
