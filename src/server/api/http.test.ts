import { request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createApiServer, mountPointOf } from './http.js';

let server: ReturnType<typeof createApiServer>;
let port: number;
const faults: unknown[] = [];
beforeEach(async () => {
  faults.length = 0;
  server = createApiServer(
    {
      'GET /wait': (_body, query) => ({ mountPoint: mountPointOf(query) }),
      'GET /echo': () => null,
      'POST /echo': (body) => body,
      'POST /fault': () => {
        throw new TypeError('a bug');
      },
    },
    (error) => faults.push(error),
  );
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  port = (server.address() as AddressInfo).port;
});
afterEach(() => {
  server.closeAllConnections();
  server.close();
});

const ask = async (path: string, init: RequestInit = {}): Promise<[number, unknown]> => {
  const response = await fetch(`http://127.0.0.1:${port}${path}`, init);
  return [response.status, await response.json()];
};

test.each([
  '/wait',
  '/wait?mountPoint=',
  '/wait?mountPoint=mnt',
  '/wait?mountPoint=/mnt&foo=1',
  '/wait?mountpoint=/mnt',
])('%s is refused: a place that is not named is not one where nothing is mounted', async (path) => {
  expect(await ask(path)).toEqual([400, { error: expect.objectContaining({ code: 'USAGE' }) }]);
});

test('one parameter, with what a URL escapes', async () => {
  expect(await ask('/wait?mountPoint=%2Fm%20n%0A')).toEqual([200, { mountPoint: '/m n\n' }]);
});

test('a method that the path does not take is told which it takes; a path that nobody knows is not there', async () => {
  const response = await fetch(`http://127.0.0.1:${port}/echo?a=1`, { method: 'DELETE' });
  expect([response.status, response.headers.get('allow')]).toEqual([405, 'GET, POST']);
  expect(await response.json()).toEqual({
    error: expect.objectContaining({ code: 'USAGE', message: 'DELETE /echo: this path takes GET, POST' }),
  });
  expect(await ask('/wait', { method: 'PUT' })).toEqual([405, expect.anything()]);
  expect(await ask('/nothing')).toEqual([404, { error: expect.objectContaining({ code: 'NOT_FOUND' }) }]);
  const head = await fetch(`http://127.0.0.1:${port}/echo`, { method: 'HEAD' });
  expect([head.status, await head.text()]).toEqual([405, '']);
});

test('a client that hangs up in the middle of its request is no fault of ours; a bug is', async () => {
  const client = request({ port, path: '/echo', method: 'POST', headers: { 'content-length': 10 } });
  client.on('error', () => {});
  client.write('{"a"');
  const seen = new Promise((resolve) => server.once('request', resolve));
  await seen;
  const closed = new Promise((resolve) => server.once('connection', (socket) => socket.once('close', resolve)));
  client.destroy();
  expect(await ask('/fault', { method: 'POST' })).toEqual([500, expect.anything()]);
  server.closeAllConnections();
  await closed;
  expect(faults).toEqual([expect.any(TypeError)]);
});
