import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type RequestListener } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ClipdClient } from './clipd-client.js';

let root: string;
let close: () => void = () => {};
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'clip-client-'));
});
afterEach(() => {
  close();
  rmSync(root, { recursive: true });
});

async function serve(listener: RequestListener): Promise<void> {
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(join(root, 'clipd.sock'), resolve));
  close = () => {
    server.closeAllConnections();
    server.close();
  };
}

const SILENCE = 200;

test.each([
  ['health', 'GET /v1/health', (client: ClipdClient) => client.health()],
  ['mounts', 'GET /v1/mounts', (client: ClipdClient) => client.mounts()],
  ['waitUnmounted', 'GET /v1/wait', (client: ClipdClient) => client.waitUnmounted('/mnt')],
])('%s of a clipd that hangs is an error that says what was waited for', async (_name, asked, ask) => {
  await serve(() => {});
  await expect(ask(new ClipdClient(root, SILENCE))).rejects.toMatchObject({
    code: 'SYSTEM',
    message: expect.stringMatching(new RegExp(`^clipd at ${root} does not answer: waited \\d+ s for ${asked}$`)),
    hint: expect.stringContaining('clipd.log'),
  });
});

test('an answer may take long while clipd answers others', async () => {
  let pings = 0;
  let answer: () => void = () => {};
  await serve((request, response) => {
    if (request.url !== '/v1/health') answer = () => response.end('{}');
    else {
      response.end('{}');
      if (++pings === 3) answer();
    }
  });
  await new ClipdClient(root, SILENCE).waitUnmounted('/mnt');
  expect(pings).toBe(3);
});
