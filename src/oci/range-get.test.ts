import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer as createHttpsServer } from 'node:https';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createSecureContext } from 'node:tls';
import { afterEach, describe, expect, test } from 'vitest';
import { makeCertificates } from '../../test/support/certificates.js';
import { listen } from '../../test/support/sources.js';
import { RangeConnections, type RangeGet } from './range-get.js';

const BLOB = Buffer.from(Array.from({ length: 3_000_000 }, (_, i) => (i * 7919) >> 8));
const cleanup: (() => unknown)[] = [];
afterEach(async () => {
  for (const undo of cleanup.splice(0).reverse()) await undo();
});

function connections(options: { connections?: number; ca?: string; idleMs?: number } = {}): RangeConnections {
  const made = new RangeConnections({
    connections: options.connections ?? 4,
    idleMs: options.idleMs ?? 5000,
    keepAliveMs: 5000,
    secureContext: () => createSecureContext(options.ca === undefined ? {} : { ca: options.ca }),
  });
  cleanup.push(() => made.close());
  return made;
}

interface Served {
  readonly url: URL;
  readonly sockets: Socket[];
  readonly requests: string[];
}

/** A server that lets `answer` write to the socket for each request it reads. */
async function serve(answer: (socket: Socket, request: string, n: number) => unknown): Promise<Served> {
  const sockets: Socket[] = [];
  const requests: string[] = [];
  const server: Server = createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => {});
    socket.on('data', (data) => {
      requests.push(data.toString('latin1'));
      void answer(socket, requests.at(-1)!, requests.length - 1);
    });
  });
  const url = new URL('/v2/x/blobs/y?sig=1', await listen(server));
  cleanup.push(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { url, sockets, requests };
}

const rangeOf = (request: string): [number, number] => {
  const [, first, last] = /\r\nrange: bytes=(\d+)-(\d+)\r\n/.exec(request)!;
  return [Number(first), Number(last) + 1];
};
const headOf = (start: number, end: number, more = ''): string =>
  `HTTP/1.1 206 Partial Content\r\nContent-Range: bytes ${start}-${end - 1}/${BLOB.length}\r\nContent-Length: ${end - start}\r\n${more}\r\n`;

const honest = (socket: Socket, request: string): void => {
  const [start, end] = rangeOf(request);
  socket.write(headOf(start, end));
  socket.write(BLOB.subarray(start, end));
};

async function get(
  from: RangeConnections,
  url: URL,
  start: number,
  length: number,
  more: Partial<RangeGet> = {},
): Promise<{ received: number; fit: boolean; bytes: Buffer }> {
  // Shared, as the buffers of the inflate workers are, and with guards around it.
  const memory = Buffer.from(new SharedArrayBuffer(length + 64)).fill(0xa5);
  const target = memory.subarray(32, 32 + length);
  const got = await from.get({ url, headers: {}, start, size: BLOB.length, target, ...more });
  for (const guard of [memory.subarray(0, 32), memory.subarray(32 + length)]) {
    expect(guard.equals(Buffer.alloc(32, 0xa5))).toBe(true);
  }
  expect(target.subarray(0, got.received).equals(BLOB.subarray(start, start + got.received))).toBe(true);
  return { ...got, bytes: target };
}

describe('RangeConnections', () => {
  test('fills the target, over one connection for one request after the other', async () => {
    const { url, sockets, requests } = await serve(honest);
    const pool = connections();
    for (const [start, length] of [
      [0, 1],
      [5, 2_000_000],
      [BLOB.length - 3, 3],
    ] as const) {
      expect(await get(pool, url, start, length)).toMatchObject({ received: length, fit: true });
    }
    expect(sockets.length).toBe(1);
    expect(requests[1]).toMatch(/^GET \/v2\/x\/blobs\/y\?sig=1 HTTP\/1\.1\r\nhost: 127\.0\.0\.1:\d+\r\n/);
    expect(requests[1]).toContain('\r\naccept-encoding: identity\r\n');
  });

  test('however the answer is cut up', async () => {
    const { url } = await serve(async (socket, request) => {
      const [start, end] = rangeOf(request);
      for (const byte of Buffer.concat([Buffer.from(headOf(start, end)), BLOB.subarray(start, end)])) {
        socket.write(Buffer.of(byte));
        if (byte % 16 === 0) await new Promise((resolve) => setImmediate(resolve));
      }
    });
    expect((await get(connections(), url, 1000, 300)).received).toBe(300);
  });

  test('says how far it is, and waits when it is told to', async () => {
    const { url } = await serve(honest);
    const seen: number[] = [];
    let waiting = false;
    const { received } = await get(connections(), url, 0, 2_000_000, {
      onBytes: (n) => {
        expect(waiting).toBe(false);
        seen.push(n);
        waiting = true;
        return new Promise((resolve) =>
          setTimeout(() => {
            waiting = false;
            resolve();
          }, 2),
        );
      },
    });
    expect(received).toBe(2_000_000);
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
    expect(seen.at(-1)).toBe(2_000_000);
  });

  test('no more connections than allowed, and every request gets its turn', async () => {
    const { url, sockets } = await serve((socket, request) => setTimeout(() => honest(socket, request), 5));
    const pool = connections({ connections: 3 });
    const all = await Promise.all(Array.from({ length: 30 }, (_, i) => get(pool, url, i * 1000, 500)));
    expect(all.every(({ received }) => received === 500)).toBe(true);
    expect(sockets.length).toBe(3);
  });

  test.each([
    ['a status that means trouble', 'HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nwait', true],
    ['a redirect', 'HTTP/1.1 307 Temporary Redirect\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n', true],
    ['a login', 'HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n', true],
    ['the whole blob', 'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody', false],
    ['another range', `${headOf(101, 105)}body`, false],
    ['a shorter range', `${headOf(100, 103)}bod`, false],
    ['another size', `${headOf(100, 104).replace(`/${BLOB.length}`, '/9')}body`, false],
    ['no range', headOf(100, 104).replace(/Content-Range.*\r\n/, ''), false],
    ['two ranges', headOf(100, 104, 'Content-Range: bytes 0-3/4\r\n'), false],
    ['two lengths', headOf(100, 104, 'Content-Length: 4\r\n'), false],
    ['chunks', headOf(100, 104, 'Transfer-Encoding: chunked\r\n'), false],
    ['an encoding', headOf(100, 104, 'Content-Encoding: gzip\r\n'), false],
    ['more than it says', `${headOf(100, 104)}bodybody`, false],
    ['an endless head', `HTTP/1.1 206 OK\r\n${'a: b\r\n'.repeat(20_000)}`, true],
    ['what is not HTTP', 'SSH-2.0-OpenSSH\r\n\r\n', true],
  ])('leaves %s to a real client', async (_, answer, fit) => {
    const { url } = await serve((socket) => socket.write(answer));
    expect(await get(connections(), url, 100, 4)).toMatchObject({ received: 0, fit });
  });

  test('a field that would end the line is not sent', async () => {
    const { url, requests } = await serve(honest);
    const { received } = await get(connections(), url, 0, 4, { headers: { authorization: 'x\r\nhost: y' } });
    expect([received, requests.length]).toEqual([0, 0]);
  });

  test('a connection that ends early, stalls or is refused: what came counts, and the next works', async () => {
    const { url } = await serve((socket, request, n) => {
      const [start, end] = rangeOf(request);
      if (n > 1) return honest(socket, request);
      socket.write(headOf(start, end));
      socket.write(BLOB.subarray(start, start + 60));
      if (n === 0) socket.end();
    });
    const pool = connections({ idleMs: 100 });
    expect(await get(pool, url, 10, 100)).toMatchObject({ received: 60, fit: true });
    expect(await get(pool, url, 10, 100)).toMatchObject({ received: 60, fit: true });
    expect(await get(pool, url, 10, 100)).toMatchObject({ received: 100, fit: true });
    expect(await get(pool, new URL('http://127.0.0.1:1/x'), 0, 4)).toMatchObject({ received: 0, fit: true });
  });

  test('a connection that the server has closed meanwhile is replaced', async () => {
    const { url, sockets } = await serve((socket, request, n) => {
      // The second request meets the end of the connection that the first one used.
      if (n === 1) socket.destroy();
      else honest(socket, request);
    });
    const pool = connections();
    expect((await get(pool, url, 0, 4)).received).toBe(4);
    expect((await get(pool, url, 4, 4)).received).toBe(4);
    expect(sockets.length).toBe(2);
    sockets[1]!.end();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect((await get(pool, url, 8, 4)).received).toBe(4);
    expect(sockets.length).toBe(3);
  });

  test('"Connection: close" is respected, and bytes nobody asked for end the connection', async () => {
    const { url, sockets } = await serve((socket, request, n) => {
      const [start, end] = rangeOf(request);
      socket.write(headOf(start, end, n === 0 ? 'Connection: close\r\n' : ''));
      socket.write(BLOB.subarray(start, end));
      if (n === 1) setTimeout(() => socket.write('more'), 5);
    });
    const pool = connections();
    for (let i = 0; i < 3; i++) {
      expect((await get(pool, url, i, 4)).received).toBe(4);
      await new Promise((resolve) => setTimeout(resolve, 30));
    }
    expect(sockets.length).toBe(3);
  });

  test('an abort and a close end what is under way, and nothing is written to the target any more', async () => {
    for (const how of ['abort', 'close'] as const) {
      const { url, sockets } = await serve((socket, request) => {
        const [start, end] = rangeOf(request);
        socket.write(headOf(start, end));
        socket.write(BLOB.subarray(start, start + 100));
      });
      const pool = connections({ connections: 1 });
      const abort = new AbortController();
      const first = get(pool, url, 0, 1000, { signal: abort.signal });
      const second = get(pool, url, 0, 1000, { signal: abort.signal });
      await new Promise((resolve) => setTimeout(resolve, 30));
      if (how === 'abort') abort.abort();
      else pool.close();
      const { received, bytes } = await first;
      expect(received).toBe(100);
      bytes.fill(0);
      for (const socket of sockets) socket.write(Buffer.alloc(500, 1));
      await new Promise((resolve) => setTimeout(resolve, 20));
      expect(bytes.every((byte) => byte === 0)).toBe(true);
      expect((await second).received).toBe(0);
    }
  });

  test('over TLS, with a certificate that is checked and sessions that are resumed', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'clip-range-'));
    cleanup.push(() => rmSync(directory, { recursive: true, force: true }));
    const { caCert, serverCert, serverKey } = await makeCertificates(join(directory, 'tls'));
    let resumed = 0;
    const server = createHttpsServer(
      { cert: readFileSync(serverCert), key: readFileSync(serverKey) },
      (request, response) => {
        const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range!)!.map(Number) as number[];
        response.writeHead(206, {
          'content-range': `bytes ${first}-${last}/${BLOB.length}`,
          'content-length': last! - first! + 1,
        });
        response.end(BLOB.subarray(first, last! + 1));
      },
    );
    server.on('secureConnection', (socket) => {
      if (socket.isSessionReused()) resumed++;
    });
    const url = new URL(`https://localhost:${new URL(await listen(server)).port}/x`);
    cleanup.push(() => {
      server.closeAllConnections();
      server.close();
    });
    const pool = connections({ ca: readFileSync(caCert, 'utf8') });
    expect((await get(pool, url, 7, 2_500_000)).received).toBe(2_500_000);
    const many = await Promise.all(Array.from({ length: 4 }, (_, i) => get(pool, url, i, 100_000)));
    expect(many.every(({ received }) => received === 100_000)).toBe(true);
    expect(resumed).toBe(3);
    // Nobody has vouched for this one.
    expect((await get(connections(), url, 0, 4)).received).toBe(0);
  });
});
