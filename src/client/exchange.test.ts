import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { exchange } from './exchange.js';

let directory: string;
let server: Server;
let asked = '';
let answer: (socket: Socket) => void = () => {};
const path = (): string => join(directory, 'socket');
beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'clip-exchange-'));
  asked = '';
  server = createServer((socket) => {
    socket.on('error', () => {});
    socket.on('data', (chunk) => {
      asked += chunk.toString();
      if (asked.endsWith('\r\n\r\n') || asked.endsWith('}')) answer(socket);
    });
  });
  await new Promise<void>((resolve) => server.listen(path(), resolve));
});
afterEach(() => {
  server.close();
  rmSync(directory, { recursive: true });
});

const never = (): AbortSignal => new AbortController().signal;
const TEXT = 'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{"a":"\u00e4\u00f6"}';

test('an answer may come byte by byte, and is complete by its length', async () => {
  answer = async (socket) => {
    for (const byte of Buffer.from(TEXT)) {
      socket.write(Uint8Array.of(byte));
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  await expect(exchange(path(), 'POST', '/v1/x', { b: 'ü' }, never())).resolves.toEqual({
    status: 200,
    text: '{"a":"äö"}',
  });
  expect(asked).toBe(
    'POST /v1/x HTTP/1.1\r\nhost: clipd\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{"b":"ü"}',
  );
});

test('an answer that is cut off anywhere, or is none, counts as a connection that was reset', async () => {
  const bytes = Buffer.from(TEXT);
  const parts = [...bytes.keys()].map((length) => bytes.subarray(0, length));
  for (const part of [
    ...parts,
    'SSH-2.0-OpenSSH\r\n\r\n',
    'HTTP/1.1 200 OK\r\n\r\n{}',
    `${TEXT} `.replace('12', 'x'),
  ]) {
    answer = (socket) => socket.end(part);
    await expect(exchange(path(), 'GET', '/', undefined, never())).rejects.toMatchObject({ code: 'ECONNRESET' });
  }
});

test('a signal ends it, before and after it has begun; where there is no socket, the error is the socket’s', async () => {
  const reason = new Error('enough');
  await expect(exchange(path(), 'GET', '/', undefined, AbortSignal.abort(reason))).rejects.toBe(reason);
  const later = new AbortController();
  answer = () => later.abort(reason);
  await expect(exchange(path(), 'GET', '/', undefined, later.signal)).rejects.toBe(reason);
  await expect(exchange(`${path()}-none`, 'GET', '/', undefined, never())).rejects.toMatchObject({ code: 'ENOENT' });
});
