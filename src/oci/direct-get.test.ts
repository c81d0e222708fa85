import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer as createHttpsServer } from 'node:https';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { SlottedTarget } from '../../test/support/blob-target.js';
import { makeCertificates } from '../../test/support/certificates.js';
import { listen } from '../../test/support/sources.js';
import { DirectConnections, type DirectGet } from './direct-get.js';
import { Network } from './network.js';
import type { BlobTarget } from './source.js';

const BLOB = Buffer.from(Array.from({ length: 3_000_000 }, (_, i) => (i * 7919) >> 8));
const cleanup: (() => unknown)[] = [];
afterEach(async () => {
  for (const undo of cleanup.splice(0).reverse()) await undo();
});

function connections(
  options: { connections?: number; ca?: string; idleMs?: number; stallBytes?: number } = {},
): DirectConnections {
  const made = new DirectConnections(new Network({ ca: options.ca, certsDirectories: [] }), {
    connections: options.connections ?? 4,
    headMs: options.idleMs ?? 5000,
    stallMs: options.idleMs ?? 5000,
    stallBytes: options.stallBytes ?? 1,
    keepAliveMs: 5000,
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
  from: DirectConnections,
  url: URL,
  start: number,
  length: number,
  more: Partial<DirectGet> & { onBytes?: (received: number) => Promise<void> } = {},
): Promise<{ received: number; fit: boolean; bytes: Buffer }> {
  // Shared, as the buffers of the inflate workers are, and with guards around it.
  const memory = Buffer.from(new SharedArrayBuffer(length + 64)).fill(0xa5);
  const target = memory.subarray(32, 32 + length);
  let received = 0;
  const lent: BlobTarget = {
    room: () => target.subarray(received),
    filled: (bytes) => {
      received += bytes;
      return more.onBytes?.(received) ?? null;
    },
  };
  const got = await from.get({
    url,
    reach: null,
    headers: {},
    ranges: [{ start, length }],
    size: BLOB.length,
    target: lent,
    ...more,
  });
  expect(got.received).toBe(received);
  for (const guard of [memory.subarray(0, 32), memory.subarray(32 + length)]) {
    expect(guard.equals(Buffer.alloc(32, 0xa5))).toBe(true);
  }
  expect(target.subarray(0, got.received).equals(BLOB.subarray(start, start + got.received))).toBe(true);
  return { ...got, bytes: target };
}

describe('DirectConnections', () => {
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

  test('connections that were opened before serve requests, and are replaced if the server has closed them', async () => {
    const { url, sockets, requests } = await serve(honest);
    const pool = connections();
    pool.open(url, null, 3);
    pool.open(url, null, 3);
    await expect.poll(() => sockets.length).toBe(3);
    expect(requests).toEqual([]);
    expect(await get(pool, url, 5, 1000)).toMatchObject({ received: 1000, fit: true });
    expect(sockets.length).toBe(3);
    for (const socket of sockets) socket.destroy();
    expect(await get(pool, url, 5, 1000)).toMatchObject({ received: 1000, fit: true });
    expect(sockets.length).toBe(4);
    pool.open(new URL('http://127.0.0.1:1/'), null, 2);
    pool.close();
    pool.open(url, null, 8);
    expect(sockets.length).toBe(4);
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
    await once(sockets[1]!, 'close');
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
      let came = (): void => {};
      const underWay = new Promise<void>((resolve) => {
        came = resolve;
      });
      const onBytes = async (received: number): Promise<void> => {
        if (received === 100) came();
      };
      const first = get(pool, url, 0, 1000, { signal: abort.signal, onBytes });
      const second = get(pool, url, 0, 1000, { signal: abort.signal });
      await underWay;
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

/** A server that answers any request with these pieces, one write each, and ends. */
const servePieces = (...pieces: (string | Buffer)[]): Promise<Served> =>
  serve(async (socket) => {
    for (const piece of pieces) {
      socket.write(piece);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    socket.end();
  });

async function whole(served: Promise<Served>, size: number, signal?: AbortSignal): Promise<Buffer> {
  const target = new SlottedTarget(100_000);
  const { url } = await served;
  const { received } = await connections().get({
    url,
    reach: null,
    headers: {},
    ranges: [{ start: 0, length: size }],
    size,
    target,
    signal,
  });
  expect(target.bytes.length).toBe(received);
  return target.bytes;
}

describe('a whole blob', () => {
  const head = (fields: string, status = '200 OK'): string => `HTTP/1.1 ${status}\r\n${fields}\r\n\r\n`;
  const wanted = head(`Content-Length: ${BLOB.length}\r\nX: y`);

  test('comes without a Range header, however the answer is cut up', async () => {
    const served = await servePieces(wanted, BLOB);
    expect((await whole(Promise.resolve(served), BLOB.length)).equals(BLOB)).toBe(true);
    expect(served.requests[0]).not.toMatch(/range:/i);
    expect((await whole(servePieces(...wanted, BLOB.subarray(0, 9), BLOB.subarray(9)), BLOB.length)).equals(BLOB)).toBe(
      true,
    );
    expect((await whole(servePieces(Buffer.concat([Buffer.from(wanted), BLOB])), BLOB.length)).equals(BLOB)).toBe(true);
  });

  test('goes into rooms that are smaller than what comes with the head', async () => {
    const body = BLOB.subarray(0, 3000);
    const { url } = await servePieces(Buffer.concat([Buffer.from(head('Content-Length: 3000')), body]));
    const target = new SlottedTarget(700);
    await connections().get({
      url,
      reach: null,
      headers: {},
      ranges: [{ start: 0, length: 3000 }],
      size: 3000,
      target,
    });
    expect(target.bytes.equals(body)).toBe(true);
  });

  test.each([
    ['another status', head('Content-Length: 4', '206 Partial Content')],
    ['a redirect', head('Location: /elsewhere\r\nContent-Length: 4', '307 Temporary Redirect')],
    ['another length', head('Content-Length: 5')],
    ['two lengths', head('Content-Length: 4\r\nContent-Length: 4')],
    ['no length', head('Connection: close')],
    ['chunks', head('Transfer-Encoding: chunked\r\nContent-Length: 4')],
    ['an encoding', head('Content-Encoding: gzip\r\nContent-Length: 4')],
  ])('leaves %s to the other client', async (_, answer) => {
    expect((await whole(servePieces(answer, 'body'), 4)).length).toBe(0);
  });

  test('that is cut short counts as far as it came', async () => {
    const cut = await whole(servePieces(head('Content-Length: 100'), BLOB.subarray(0, 60)), 100);
    expect(cut.equals(BLOB.subarray(0, 60))).toBe(true);
  });

  test('rejects with what its target rejects with', async () => {
    const { url } = await servePieces(wanted, BLOB);
    const room = new Uint8Array(1000);
    const target = { room: () => room, filled: () => Promise.reject(new Error('the disk is full')) };
    const got = connections().get({
      url,
      reach: null,
      headers: {},
      ranges: [{ start: 0, length: BLOB.length }],
      size: BLOB.length,
      target,
    });
    await expect(got).rejects.toThrow('the disk is full');
  });
});

test('a peer that sends a byte now and then is given up as one that sends none', async () => {
  const { url } = await serve((socket, request, n) => {
    if (n > 0) return honest(socket, request);
    const [start, end] = rangeOf(request);
    socket.write(headOf(start, end));
    let at = start;
    const drip = setInterval(() => socket.write(BLOB.subarray(at, ++at)), 20);
    socket.on('close', () => clearInterval(drip));
  });
  const pool = connections({ idleMs: 300, stallBytes: 100 });
  const { received } = await get(pool, url, 0, 1000);
  expect(received).toBeGreaterThan(0);
  expect(received).toBeLessThan(100);
  expect((await get(pool, url, 0, 1000)).received).toBe(1000);
});
