import { expect, test } from 'vitest';
import { formatted } from './readable.js';
import { redact } from './redact.js';

const CANARY = 'c4n4ry-Secret/1+2=';

test.each([
  ['a login in a URL', `https://user:${encodeURIComponent(CANARY)}@host/v2/`],
  ['a password alone in a URL', `redis://:${encodeURIComponent(CANARY)}@host:6379/0`],
  ['a token as the user of a URL', `https://${encodeURIComponent(CANARY)}@host/`],
  ['a signed URL of S3', `GET https://b.s3.amazonaws.com/k?X-Amz-Signature=${encodeURIComponent(CANARY)}&x=1 403`],
  ['its session', `https://b/k?X-Amz-Security-Token=${encodeURIComponent(CANARY)}`],
  ['a signed URL of Azure', `https://a.blob.core.windows.net/x?sv=1&sig=${encodeURIComponent(CANARY)}`],
  ['a token in a URL', `https://auth/token?service=s&access_token=${encodeURIComponent(CANARY)}`],
  ['a bearer token', `refused: Authorization: Bearer ${CANARY}`],
  ['a basic login', `Basic ${Buffer.from(CANARY).toString('base64')}`],
  ['a private key', `-----BEGIN EC PRIVATE KEY-----\n${CANARY}\n-----END EC PRIVATE KEY-----`],
])('a log line keeps nothing of %s, in the message, in a field, deep in an object, in a cause', (_, secret) => {
  const value = secret.includes('base64') ? secret : secret;
  for (const line of [
    { msg: value },
    { msg: 'x', error: value },
    { msg: 'x', at: { deep: [{ url: value }] } },
    { msg: 'x', err: { type: 'Error', message: value, stack: `Error: ${value}\n    at f`, cause: { message: value } } },
  ]) {
    const text = redact(`${JSON.stringify(line)}\n`);
    for (const form of [CANARY, encodeURIComponent(CANARY), Buffer.from(CANARY).toString('base64')]) {
      expect(text).not.toContain(form);
      expect(text).not.toContain(JSON.stringify(form).slice(1, -1));
    }
    expect(() => JSON.parse(text)).not.toThrow();
  }
});

test.each([
  'password',
  'registryPassword',
  'secretAccessKey',
  'sessionToken',
  'identitytoken',
  'authorization',
  'proxy-authorization',
  'credentials',
  'creds',
  'auth',
  'cookie',
])('a field %s is a secret, whatever it holds', (field) => {
  for (const value of [CANARY, `a "quoted" ${CANARY}`, [CANARY], { username: 'u', x: CANARY }]) {
    const text = redact(JSON.stringify({ msg: 'm', at: { [field]: value } }));
    expect(text).not.toContain('c4n4ry');
    expect(JSON.parse(text)).toMatchObject({ msg: 'm' });
  }
});

test('what is no secret stays as it is', () => {
  const line = JSON.stringify({
    level: 50,
    time: 1,
    name: 'server',
    layer: `sha256:${'a'.repeat(64)}`,
    url: 'https://registry.example.com/v2/team/app@sha256:0/manifests?ns=docker.io&n=21',
    image: 'registry.example.com:5000/team/app@sha256:1234',
    path: '/mnt/a@b',
    error: 'tokens: 3, no basic auth credentials for user@host.example.com',
    requests: 7,
    msg: 'the registry asks for a login',
  });
  expect(redact(line)).toBe(line);
});

test('lines are JSON for programs, with a priority for journald, and readable on a terminal', () => {
  const line = `${JSON.stringify({ level: 40, time: 0, pid: 1, name: 'server', layer: 'sha256:1', why: 'a b', msg: 'span\x1b[2J lies' })}\n`;
  expect(formatted(line, 'json')).toBe(line);
  expect(formatted(line, 'journal')).toBe(`<4>${line}`);
  expect(formatted(line, 'pretty').slice('00:00:00'.length)).toBe(
    ' \x1b[33mwarn \x1b[0m server: span?[2J lies layer=sha256:1 why="a b"\n',
  );
  expect(formatted('not JSON\n', 'pretty')).toBe('not JSON\n');
});
