import { createHash } from 'node:crypto';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { addAddress, PUBLIC_ADDRESS } from '../../test/support/addresses.js';
import { failure, fetchRange, Sources } from '../../test/support/sources.js';
import { guardedLookup, localityOf, mayReach } from './addresses.js';
import { RegistryClient } from './client.js';
import { UPSTREAM } from './hosts.js';
import type { SourceOptions } from './index.js';

const PRIVATE_ADDRESS = '10.213.7.1';
const METADATA_ADDRESS = '169.254.169.254';
const BLOB = Buffer.from('0123456789');
const DIGEST = `sha256:${createHash('sha256').update(BLOB).digest('hex')}`;

describe('localities', () => {
  test.each([
    ['8.8.8.8', 'public'],
    ['2606:4700::1111', 'public'],
    ['127.0.0.1', 'loopback'],
    ['127.9.9.9', 'loopback'],
    ['0.0.0.0', 'loopback'],
    ['::', 'loopback'],
    ['::1', 'loopback'],
    ['10.0.0.1', 'private'],
    ['172.31.255.255', 'private'],
    ['172.32.0.0', 'public'],
    ['192.168.1.1', 'private'],
    ['100.100.100.1', 'private'],
    ['fd00:ec3::254', 'private'],
    ['64:ff9b:1::1', 'private'],
    // Clouds keep a machine's credentials there.
    ['100.100.100.200', 'link-local'],
    ['192.0.0.192', 'link-local'],
    ['fd00:ec2::254', 'link-local'],
    ['fd00:ec2::23', 'link-local'],
    ['fd20:ce::254', 'link-local'],
    ['fd00:c1::a9fe:a9fe', 'link-local'],
    ['::169.254.169.254', 'link-local'],
    ['169.254.169.254', 'link-local'],
    ['168.63.129.16', 'link-local'],
    ['fe80::1%eth0', 'link-local'],
    ['255.255.255.255', 'link-local'],
    ['ff02::1', 'link-local'],
    // IPv4 addresses in IPv6 dress
    ['::ffff:127.0.0.1', 'loopback'],
    ['::ffff:7f00:1', 'loopback'],
    ['::ffff:169.254.169.254', 'link-local'],
    ['64:ff9b::a9fe:a9fe', 'link-local'],
    ['64:ff9b::8.8.8.8', 'public'],
    ['2002:7f00:1::', 'loopback'],
    ['2002:0808:0808::1', 'public'],
  ] as const)('%s is %s', (address, locality) => {
    expect(localityOf(address)).toBe(locality);
  });

  test('a response may lead to addresses as public as its own; to link-local ones only from there', () => {
    const all = ['public', 'private', 'link-local', 'loopback'] as const;
    expect(Object.fromEntries(all.map((from) => [from, all.filter((to) => mayReach(from, to))]))).toEqual({
      public: ['public'],
      private: ['public', 'private'],
      'link-local': ['public', 'private', 'link-local'],
      loopback: ['public', 'private', 'loopback'],
    });
  });

  test('a name is resolved once for check and connection, and other addresses of it are left out', async () => {
    const look = (name: string, options: object): Promise<unknown> =>
      new Promise((resolve) => guardedLookup('public')(name, options, (error, found) => resolve(error ?? found)));
    expect(String(await look('localhost', { all: true }))).toMatch(/may not redirect to localhost \((127.0.0.1|::1)\)/);
    expect(String(await look('localhost', {}))).toMatch(/a loopback address/);
    const anywhere = (): Promise<unknown> =>
      new Promise((resolve) => guardedLookup('loopback')('localhost', { all: true }, (_, found) => resolve(found)));
    expect(await anywhere()).toContainEqual({ address: '127.0.0.1', family: 4 });
  });
});

// Attack: a registry redirects a blob request to an address that only this machine can reach, and learns from data or EIO what
// is there. All servers are real, at addresses that this machine is given for the test.
describe.runIf(process.getuid?.() === 0)('redirects', () => {
  const undo: (() => unknown)[] = [];
  const sources = new Sources();
  /** What each internal server was asked. */
  const asked: string[] = [];
  const ports: Record<string, number> = {};
  let location = '';
  let registry: { host: string; close: () => void };

  const listenAt = async (address: string, server: Server): Promise<number> => {
    await new Promise<void>((resolve) => server.listen(0, address, resolve));
    undo.push(() => {
      server.closeAllConnections();
      server.close();
    });
    return (server.address() as AddressInfo).port;
  };
  const registryAt = async (address: string): Promise<{ host: string; close: () => void }> => {
    const server = createServer((_, response) => response.writeHead(307, { location }).end());
    const port = await listenAt(address, server);
    return { host: `${address}:${port}`, close: () => server.close() };
  };

  beforeAll(async () => {
    for (const address of [PUBLIC_ADDRESS, PRIVATE_ADDRESS, METADATA_ADDRESS]) undo.push(addAddress(address));
    for (const address of [PUBLIC_ADDRESS, PRIVATE_ADDRESS, METADATA_ADDRESS, '127.0.0.1']) {
      const server = createServer((request, response) => {
        asked.push(`${address}${request.url}`);
        const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
        const [start, end] = range === null ? [0, BLOB.length - 1] : [Number(range[1]), Number(range[2])];
        response.writeHead(206, { 'content-range': `bytes ${start}-${end}/${BLOB.length}` });
        response.end(BLOB.subarray(start, end + 1));
      });
      ports[address] = await listenAt(address, server);
    }
    registry = await registryAt(PUBLIC_ADDRESS);
  });
  afterAll(async () => {
    for (const step of undo.reverse()) await step();
  });
  afterEach(async () => {
    asked.length = 0;
    await sources.close();
  });

  const to = (address: string, path = '/secret'): string => `http://${address}:${ports[address]}${path}`;
  const read = async (host: string, target: string, options: SourceOptions = {}): Promise<string> => {
    location = target;
    const source = sources.open(`${host}/a/b`, { plainHttp: true, ...options });
    // Both ways that a reader takes, twice: the second time would go straight to a remembered place.
    const bytes = new Uint8Array(3);
    await source.fetchInto(DIGEST, 2, bytes, { size: BLOB.length });
    await source.fetchInto(DIGEST, 2, bytes, { size: BLOB.length });
    const again = await fetchRange(source, DIGEST, 2, 5, { size: BLOB.length });
    expect(Buffer.from(bytes).equals(again)).toBe(true);
    return again.toString();
  };

  test('to public addresses are followed', async () => {
    expect(await read(registry.host, to(PUBLIC_ADDRESS))).toBe('234');
  });

  test.each([
    ['loopback', '127.0.0.1'],
    ['link-local', METADATA_ADDRESS],
    ['private', PRIVATE_ADDRESS],
  ])('to %s addresses are refused before a connection is made', async (locality, address) => {
    const error = await failure(read(registry.host, to(address)));
    expect(error).toMatchObject({ code: 'NETWORK' });
    expect(error.message).toBe(`a registry may not redirect to ${address}, a ${locality} address`);
    expect(asked).toEqual([]);
  });

  test.each(['localhost', '[::ffff:127.0.0.1]', '0.0.0.0', '2130706433', '0x7f.1'])(
    'to %s, which is this machine by another name, are refused',
    async (name) => {
      const error = await failure(read(registry.host, `http://${name}:${ports['127.0.0.1']}/secret`));
      expect(error.message).toMatch(/may not redirect to .*loopback address/);
      expect(asked).toEqual([]);
    },
  );

  test('are checked at each hop: a host that was redirected to may not lead further in', async () => {
    const hop = createServer((_, response) => response.writeHead(302, { location: to('127.0.0.1') }).end());
    const port = await listenAt(PUBLIC_ADDRESS, hop);
    expect((await failure(read(registry.host, `http://${PUBLIC_ADDRESS}:${port}/`))).message).toMatch(/127\.0\.0\.1/);
    expect(asked).toEqual([]);
  });

  test('into private networks are followed when the user allows it, and further in not', async () => {
    expect(await read(registry.host, to(PRIVATE_ADDRESS), { allowPrivateRedirects: true })).toBe('234');
    asked.length = 0;
    for (const address of ['127.0.0.1', METADATA_ADDRESS]) {
      await failure(read(registry.host, to(address), { allowPrivateRedirects: true }));
    }
    expect(asked).toEqual([]);
  });

  test('from a local registry lead to local addresses, but not to a cloud’s metadata', async () => {
    const local = await registryAt('127.0.0.1');
    expect(await read(local.host, to('127.0.0.1'))).toBe('234');
    expect(await read(local.host, to(PRIVATE_ADDRESS))).toBe('234');
    const inside = await registryAt(PRIVATE_ADDRESS);
    expect(await read(inside.host, to(PRIVATE_ADDRESS))).toBe('234');
    asked.length = 0;
    for (const { host } of [local, inside]) await failure(read(host, to(METADATA_ADDRESS)));
    await failure(read(inside.host, to('127.0.0.1')));
    expect(asked).toEqual([]);
  });

  test('the token server that a public registry names is none of this machine’s', async () => {
    const server = createServer((_, response) =>
      response.writeHead(401, { 'www-authenticate': `Bearer realm="${to('127.0.0.1', '/token')}"` }).end(),
    );
    const port = await listenAt(PUBLIC_ADDRESS, server);
    const source = sources.open(`${PUBLIC_ADDRESS}:${port}/a/b`, { plainHttp: true });
    const error = await failure(source.resolve());
    expect(error.message).toMatch(/127\.0\.0\.1/);
    expect(asked).toEqual([]);
  });

  // Attack: the answer that begins an upload says where to send it.
  test('an upload goes to no local address that a public registry names', async () => {
    const counters = { requests: 0, bytes: 0, retries: 0, redirects: 0, tokens: 0 };
    const client = new RegistryClient(UPSTREAM, registry.host, 'a/b', { credentials: null, plainHttp: true }, counters);
    const request = { what: 'an upload', method: 'PUT' as const, headers: {}, body: BLOB, accept: [201] };
    const error = await failure(client.attempt(to('127.0.0.1'), request));
    expect(error.message).toMatch(/may not redirect to 127\.0\.0\.1/);
    expect(asked).toEqual([]);
    await client.close();
  });
});
