import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { type IncomingMessage, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { runHostile } from '../../../test/support/hostile.js';
import { createApiServer, mountPointOf } from './http.js';

let server: ReturnType<typeof createApiServer>;
let directory: string;
let socketPath: string;
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
  directory = mkdtempSync(join(tmpdir(), 'clip-api-'));
  socketPath = join(directory, 'api.sock');
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
});
afterEach(() => {
  server.closeAllConnections();
  server.close();
  rmSync(directory, { recursive: true });
});

async function send(path: string, method: string): Promise<{ response: IncomingMessage; text: string }> {
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    request({ socketPath, path, method }, resolve).on('error', reject).end();
  });
  let text = '';
  for await (const chunk of response.setEncoding('utf8') as AsyncIterable<string>) text += chunk;
  return { response, text };
}

const ask = async (path: string, { method = 'GET' } = {}): Promise<[number | undefined, unknown]> => {
  const { response, text } = await send(path, method);
  return [response.statusCode, JSON.parse(text)];
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
  const { response, text } = await send('/echo?a=1', 'DELETE');
  expect([response.statusCode, response.headers.allow]).toEqual([405, 'GET, POST']);
  expect(JSON.parse(text)).toEqual({
    error: expect.objectContaining({ code: 'USAGE', message: 'DELETE /echo: this path takes GET, POST' }),
  });
  expect(await ask('/wait', { method: 'PUT' })).toEqual([405, expect.anything()]);
  expect(await ask('/nothing')).toEqual([404, { error: expect.objectContaining({ code: 'NOT_FOUND' }) }]);
  const head = await send('/echo', 'HEAD');
  expect([head.response.statusCode, head.text]).toEqual([405, '']);
});

test('a client that hangs up in the middle of its request is no fault of ours; a bug is', async () => {
  const client = request({ socketPath, path: '/echo', method: 'POST', headers: { 'content-length': 10 } });
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

test.runIf(process.getuid?.() === 0)(
  'another user gets no answer, even from a socket that is open to everybody',
  async () => {
    chmodSync(directory, 0o755);
    chmodSync(socketPath, 0o666);
    const child = runHostile(
      `require('http').get({ socketPath: process.argv[1], path: '/echo' }, (r) => console.log(r.statusCode))
       .on('error', (e) => console.log(e.code));`,
      [socketPath],
    );
    let text = '';
    for await (const chunk of child.stdout!) text += String(chunk);
    expect(text).toMatch(/^(ECONNRESET|EPIPE)\n$/);
    expect(await ask('/echo')).toEqual([200, null]);
  },
);
