import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { S3_CREDENTIALS } from '../../../test/support/content-servers.js';
import { openContentCache } from './open.js';
import type { ContentCache } from './types.js';

const hash = 'ab'.repeat(32);
const options = { routingKey: 'sha256:layer' };
let dir: string;
const cleanup: (() => unknown)[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'clip-content-'));
});
afterEach(async () => {
  for (const undo of cleanup.splice(0).reverse()) await undo();
  rmSync(dir, { recursive: true, force: true });
});

function open(url: string, environment?: Parameters<typeof openContentCache>[1]): ContentCache {
  const cache = openContentCache(url, environment);
  cleanup.push(() => cache.close?.());
  return cache;
}

// Attack: a cache announces, or sends, far more than was asked for.
describe('an answer that is larger than asked for', () => {
  const GIGABYTES = 2 * 1024 ** 3;

  /** A server that hands each connection to `talk`, and says how much it could send and when a connection ended. */
  async function talker(path: string | number, talk: (socket: Socket, sent: (bytes: number) => void) => void) {
    let bytes = 0;
    let closed = 0;
    const server = createServer((socket) => {
      socket.on('error', () => {}).on('close', () => closed++);
      talk(socket, (more) => {
        bytes += more;
      });
    });
    await new Promise<void>((resolve) =>
      typeof path === 'number' ? server.listen(path, '127.0.0.1', resolve) : server.listen(path, resolve),
    );
    cleanup.push(() => server.close());
    const address = server.address();
    return {
      port: typeof address === 'object' && address !== null ? address.port : 0,
      get bytes() {
        return bytes;
      },
      get closed() {
        return closed;
      },
    };
  }

  /** Sends zeros as fast as they are taken, up to 2 GB. */
  function flood(socket: Socket, sent: (bytes: number) => void): void {
    const piece = Buffer.alloc(1 << 20);
    let left = GIGABYTES;
    const go = (): void => {
      while (left > 0 && !socket.destroyed) {
        left -= piece.length;
        sent(piece.length);
        if (!socket.write(piece)) break;
      }
    };
    socket.on('drain', go);
    go();
  }

  const until = async (condition: () => boolean): Promise<void> => {
    while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
  };

  async function refuses(cache: ContentCache, server: { bytes: number; closed: number }): Promise<void> {
    const before = process.memoryUsage().arrayBuffers;
    await expect(cache.getContent(hash, 0, 1000, options)).rejects.toThrow(/asked for|more than/);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(32 << 20);
    await until(() => server.closed > 0);
    expect(server.bytes).toBeLessThan(64 << 20);
  }

  test('of Redis ends the connection at its announcement', async () => {
    const server = await talker(0, (socket, sent) =>
      socket.on('data', (data: Buffer) => {
        if (!data.includes('GETRANGE')) return socket.write('+PONG\r\n');
        socket.write(`$${GIGABYTES}\r\n`);
        return flood(socket, sent);
      }),
    );
    await refuses(open(`redis://127.0.0.1:${server.port}`), server);
  });

  test('of Redis, in a list or a line without end, too', async () => {
    for (const reply of [
      `*${GIGABYTES}\r\n`,
      `+${'a'.repeat(10_000)}`,
      `*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n`,
      'HTTP/1.1 400\r\n',
    ]) {
      const server = await talker(0, (socket) =>
        socket.on('data', (data: Buffer) => socket.write(data.includes('GETRANGE') ? reply : '+PONG\r\n')),
      );
      await expect(open(`redis://127.0.0.1:${server.port}`).getContent(hash, 0, 1000, options)).rejects.toThrow(
        /a reply/,
      );
      await until(() => server.closed > 0);
    }
  });

  test('of a bucket is cut off, also when it is an error', async () => {
    for (const status of ['206 Partial Content', '403 Forbidden']) {
      const server = await talker(0, (socket, sent) =>
        socket.once('data', () => {
          socket.write(`HTTP/1.1 ${status}\r\nContent-Type: application/xml\r\nContent-Length: ${GIGABYTES}\r\n\r\n`);
          flood(socket, sent);
        }),
      );
      const cache = open(`s3://bucket?endpoint=http://127.0.0.1:${server.port}`, { credentials: S3_CREDENTIALS });
      await refuses(cache, server);
    }
  });

  test('of a socket is cut off', async () => {
    for (const status of ['206 Partial Content', '503 Service Unavailable']) {
      const path = join(dir, `socket${status.slice(0, 3)}`);
      const server = await talker(path, (socket, sent) =>
        socket.once('data', () => {
          socket.write(`HTTP/1.1 ${status}\r\nContent-Length: ${GIGABYTES}\r\n\r\n`);
          flood(socket, sent);
        }),
      );
      await refuses(open(`unix:${path}`), server);
    }
  });

  test('after a lookup is given up, its reply is skipped and not kept, and the connection goes on', async () => {
    const replies: (() => void)[] = [];
    const body = Buffer.alloc(4 << 20, 'x');
    const server = await talker(0, (socket) =>
      socket.on('data', (data: Buffer) => {
        if (!data.includes('GETRANGE')) return socket.write('+PONG\r\n');
        replies.push(() =>
          socket.write(Buffer.concat([Buffer.from(`$${body.length}\r\n`), body, Buffer.from('\r\n')])),
        );
        return true;
      }),
    );
    const cache = open(`redis://127.0.0.1:${server.port}`);
    const abort = new AbortController();
    const given = cache.getContent(hash, 0, body.length, { ...options, signal: abort.signal });
    await until(() => replies.length === 1);
    abort.abort();
    await expect(given).rejects.toThrow();
    const next = cache.getContent(hash, 0, body.length, options);
    await until(() => replies.length === 2);
    for (const reply of replies) reply();
    expect((await next)?.length).toBe(body.length);
    expect(server.closed).toBe(0);
  });
});
