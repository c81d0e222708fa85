import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { LayoutBuilder } from '../../test/support/layout.js';
import { lazyStage } from '../../test/support/lazy-layers.js';
import { type MultipartStyle, multipartAnswer, PLAIN_STYLE } from '../../test/support/multipart.js';
import { type RegistryProxy, startProxy } from '../../test/support/proxy.js';
import { LOGIN, startRegistry, type TestRegistry } from '../../test/support/registry.js';
import { gzipLayer } from '../../test/support/span-layers.js';
import type { Metrics } from '../metrics/index.js';
import { type BlobRange, type SourceOptions, sourceForArchive, wrongAnswers } from '../oci/index.js';
import { Priority } from './inflate-tasks.js';
import type { LayerClaim } from './layer-claim.js';

// A profile's spans lie all over a blob. They are asked for by several ranges in one request, where the host answers that, and otherwise
// by single ranges: against Debian's docker-registry, and against a server that answers wrongly in each way.

const SPAN = 32 * 1024;
const COUNT = 96;
const raw = Buffer.alloc(COUNT * SPAN);
for (let i = 0; i < raw.length; i += 32) createHash('sha256').update(`${i}`).digest().copy(raw, i);
const layer = gzipLayer(raw, SPAN);
const blob = Buffer.from(layer.blob);
const { layerOffset, bitOffset } = layer.table;
/** The compressed bytes of spans [first, end). */
const rangeOf = (first: number, end = first + 1): BlobRange => {
  const start = Math.floor(bitOffset[first]! / 8);
  return { start, length: Math.ceil(bitOffset[end]! / 8) - start };
};
/** So far apart that single ranges do not join them; the last two are neighbours. */
const PROFILE = [70, 3, 81, 24, 50, 13, 14];
const ALL: readonly BlobRange[] = [...PROFILE.slice(0, 5).map((span) => rangeOf(span)), rangeOf(13, 15)];

/** What is learnt of a host is kept by the process: each server is another one. */
let hosts = 0;
const nextAddress = (): string => `127.77.${++hosts >> 8}.${hosts & 255}`;

const stage = lazyStage();

interface Opened {
  readonly claim: LayerClaim;
  readonly metrics: Metrics;
  /** Fetches the profile, or other spans, and compares them with the layer. */
  profile(spans?: readonly number[]): Promise<void>;
}

async function open(registry: string, options: SourceOptions = {}): Promise<Opened> {
  const origin = {
    reference: `${registry}/test:latest`,
    registry,
    repository: 'test',
    manifestDigest: `sha256:${'0'.repeat(64)}`,
  };
  const quick = { plainHttp: true, credentials: null, retry: { baseMs: 1, maxMs: 5 }, proxy: {} };
  const source = sourceForArchive(origin, { ...quick, ...options });
  stage.cleanup.push(() => source.close());
  const { opened: claim, metrics, set } = await stage.openFrom(source, layer);
  const profile = async (spans: readonly number[] = PROFILE): Promise<void> => {
    const list = { layer: new Uint32Array(spans.length), span: Uint32Array.from(spans) };
    const { progress, finished } = set.prefetch([claim], list);
    await finished;
    expect(progress).toMatchObject({ done: spans.length, failed: 0 });
    for (const span of spans) {
      const [start, end] = [layerOffset[span]!, layerOffset[span + 1]!];
      const got = await claim.read(start, end - start);
      expect(Buffer.compare(got, raw.subarray(start, end))).toBe(0);
    }
    expect(metrics.snapshot()).toMatchObject({ failedSpans: 0 });
  };
  return { claim, metrics, profile };
}

const header = (ranges: readonly BlobRange[]): string =>
  `bytes=${ranges.map(({ start, length }) => `${start}-${start + length - 1}`).join(',')}`;
const isSeveral = (range: string | null): boolean => range?.includes(',') === true;

describe('docker-registry', () => {
  let registry: TestRegistry;
  let proxy: RegistryProxy;
  const ranges = (): (string | null)[] =>
    proxy.requests.filter(({ path }) => path.includes('/blobs/')).map(({ range }) => range);

  const push = async (to: TestRegistry): Promise<void> => {
    const layout = new LayoutBuilder();
    layout.tag(layout.image([raw]), 'test');
    await to.push(`oci:${layout.directory}:test`, 'test:latest');
    layout.remove();
  };
  beforeAll(async () => {
    registry = await startRegistry();
    await push(registry);
  });
  afterAll(() => registry?.stop());
  beforeEach(async () => {
    proxy = await startProxy({ upstream: registry.url, address: nextAddress() });
    stage.cleanup.push(() => proxy.stop());
  });

  test('answers a profile’s spans in one request, in the order of the profile', async () => {
    const { profile, metrics } = await open(proxy.host);
    await profile();
    expect(ranges()).toEqual([header(ALL)]);
    expect(proxy.requests[0]).toMatchObject({ status: 206 });
    expect(metrics.snapshot()).toMatchObject({
      requests: 1,
      prefetchBytes: ALL.reduce((sum, { length }) => sum + length, 0),
      spansFetched: 7,
    });
  });

  test('a reader’s own request is for one range, and what it waits for of a profile’s comes with that', async () => {
    const { claim, metrics, profile } = await open(proxy.host);
    await Promise.all([claim.read(layerOffset[60]!, 10), claim.read(layerOffset[30]!, 10)]);
    expect(ranges().map(isSeveral)).toEqual([false, false]);
    proxy.fault = () => ({ delayMs: 50 });
    const fetched = profile();
    await expect.poll(() => ranges().length).toBe(3);
    const got = await claim.read(layerOffset[24]!, 100);
    expect(Buffer.compare(got, raw.subarray(layerOffset[24], layerOffset[24]! + 100))).toBe(0);
    await fetched;
    expect(ranges()).toHaveLength(3);
    expect(metrics.snapshot()).toMatchObject({ requests: 3, spansFetched: 9 });
  });

  test('so does what is read ahead, and a reader has a request of its own beside it', async () => {
    const { claim, metrics } = await open(proxy.host);
    const waits = PROFILE.map((span) => claim.ahead(span, Priority.readahead));
    await claim.read(layerOffset[40]!, 100);
    await Promise.all(waits);
    expect(ranges().sort()).toEqual([header(ALL), header([rangeOf(40)])].sort());
    expect(metrics.snapshot()).toMatchObject({ requests: 2, spansFetched: 8 });
  });

  test('a connection that breaks in a part goes on with that part, and the rest in one request', async () => {
    let breaks = 1;
    proxy.fault = ({ range }) => (isSeveral(range) && breaks-- > 0 ? { resetAfter: 2.5 * SPAN } : null);
    const { profile } = await open(proxy.host);
    await profile();
    const [first, second, third, ...more] = ranges();
    expect([first, more]).toEqual([header(ALL), []]);
    expect(second).toMatch(new RegExp(`^bytes=\\d+-${ALL[2]!.start + ALL[2]!.length - 1}$`));
    expect(third).toBe(header(ALL.slice(3)));
  });

  test.each([
    ['503', { respond: { status: 503 } }],
    ['429', { respond: { status: 429, headers: { 'retry-after': '0' } } }],
    ['a closed connection', { refuse: true }],
  ])('%s now and then is no refusal', async (_, fault) => {
    let faults = 1;
    proxy.fault = ({ range }) => (isSeveral(range) && faults-- > 0 ? fault : null);
    const { profile } = await open(proxy.host);
    await profile();
    expect(ranges().filter(isSeveral)).toEqual([header(ALL), header(ALL.slice(1))]);
    await (await open(proxy.host)).profile();
    expect(ranges().at(-1)).toBe(header(ALL));
  });

  test('a host that gives one range but never several is asked for them a few times', async () => {
    proxy.fault = ({ range }) => (isSeveral(range) ? { refuse: true } : null);
    for (let i = 0; i < 5; i++) await (await open(proxy.host)).profile();
    expect(ranges().filter(isSeveral)).toHaveLength(6);
    expect(wrongAnswers()[`wrongAnswer.${proxy.host}.parts`]).toBe(1);
  });

  test('behind a redirect: the storage that it leads to is asked, and learnt of for itself', async () => {
    let several = 0;
    const storage = await startProxy({ upstream: registry.url, address: nextAddress() });
    stage.cleanup.push(() => storage.stop());
    storage.fault = ({ range }) => {
      if (!isSeveral(range)) return null;
      several++;
      return { ignoreRange: true };
    };
    proxy.fault = ({ path }) => ({ respond: { status: 307, headers: { location: `${storage.url}${path}` } } });
    await (await open(proxy.host)).profile();
    expect(several).toBe(1);
    // Another image of the same registry asks for single ranges at once, and finds out when the registry gives the bytes itself.
    await (await open(proxy.host)).profile();
    expect(several).toBe(1);
    expect(ranges().filter(isSeveral)).toHaveLength(1);
    expect(wrongAnswers()).not.toHaveProperty(`wrongAnswer.${proxy.host}.parts`);
  });

  test('with tokens: a login, and one request', async () => {
    const locked = await startRegistry({ auth: 'token' });
    stage.cleanup.push(() => locked.stop());
    await push(locked);
    // Its token server takes logins without TLS from its own address only.
    const front = await startProxy({ upstream: locked.url });
    stage.cleanup.push(() => front.stop());
    const { profile } = await open(front.host, {
      credentials: LOGIN,
      ca: readFileSync(locked.certificates!.caCert, 'utf8'),
    });
    await profile();
    const asked = front.requests.filter(({ status }) => status === 206).map(({ range }) => range);
    expect(asked).toEqual([header(ALL.slice(0, 1)), header(ALL.slice(1))]);
  });
});

describe('a server of another mind', () => {
  type Answer = (ranges: readonly BlobRange[], socket: Socket) => unknown;
  const head = (status: string, type: string, length: number | null, more = ''): string =>
    `HTTP/1.1 ${status}\r\nContent-Type: ${type}\r\n${length === null ? '' : `Content-Length: ${length}\r\n`}${more}\r\n`;
  const TYPE = `multipart/byteranges; boundary=${PLAIN_STYLE.boundary}`;
  /** Parts of these ranges, in this style. */
  const parts =
    (
      change: (ranges: readonly BlobRange[]) => readonly BlobRange[],
      style: Partial<MultipartStyle> = {},
      type = TYPE,
    ): Answer =>
    (ranges, socket) => {
      const body = multipartAnswer(blob, change(ranges), { ...PLAIN_STYLE, ...style });
      socket.write(head('206 Partial Content', type, body.length));
      socket.write(body);
    };
  const same = (ranges: readonly BlobRange[]): readonly BlobRange[] => ranges;

  async function serve(several: Answer): Promise<{ host: string; requests: string[]; sockets: Socket[] }> {
    const requests: string[] = [];
    const sockets: Socket[] = [];
    const server = createServer((socket) => {
      sockets.push(socket);
      socket.on('error', () => {});
      let text = '';
      socket.on('data', (data) => {
        text += data.toString('latin1');
        for (let end = text.indexOf('\r\n\r\n'); end >= 0; end = text.indexOf('\r\n\r\n')) {
          const value = /\r\nrange: (bytes=.*)/i.exec(text.slice(0, end))?.[1] ?? '';
          text = text.slice(end + 4);
          requests.push(value);
          const ranges = [...value.matchAll(/(\d+)-(\d+)/g)].map(([, from, to]) => ({
            start: Number(from),
            length: Number(to) - Number(from) + 1,
          }));
          const [{ start, length } = { start: 0, length: 0 }] = ranges;
          if (ranges.length > 1) several(ranges, socket);
          else {
            const range = `Content-Range: bytes ${start}-${start + length - 1}/${blob.length}\r\n`;
            socket.write(head('206 Partial Content', 'application/octet-stream', length, range));
            socket.write(blob.subarray(start, start + length));
          }
        }
      });
    });
    const address = nextAddress();
    await new Promise<void>((resolve) => server.listen(0, address, resolve));
    const host = `${address}:${(server.address() as AddressInfo).port}`;
    stage.cleanup.push(() => {
      for (const socket of sockets) socket.destroy();
      server.close();
    });
    return { host, requests, sockets };
  }

  test.each<[string, Answer]>([
    ['a quoted boundary', parts(same, {}, `multipart/byteranges; boundary="${PLAIN_STYLE.boundary}"`)],
    [
      'a type in another case, and blanks',
      parts(same, { padding: '  ' }, `Multipart/BYTERANGES ;  Boundary=${PLAIN_STYLE.boundary}`),
    ],
    ['a line end first', parts(same, { lead: '\r\n' })],
    ['other fields', parts(same, { fields: (range) => `X: y\r\ncontent-range:   ${range}\t\r\n` })],
    ['no epilogue', parts(same, { epilogue: '' })],
    [
      'an answer of single bytes',
      async (ranges, socket) => {
        const body = multipartAnswer(blob, ranges, PLAIN_STYLE);
        socket.write(head('206 Partial Content', TYPE, body.length));
        // Every edge of every part, byte by byte.
        for (let at = 0; at < body.length; ) {
          const delimiter = body.indexOf(`--${PLAIN_STYLE.boundary}`, at);
          const step =
            delimiter > at + 4 ? delimiter - 4 - at : delimiter >= 0 && at >= delimiter - 4 ? 1 : body.length - at;
          socket.write(body.subarray(at, at + (at > delimiter && delimiter >= 0 ? 1 : step)));
          at += at > delimiter && delimiter >= 0 ? 1 : step;
          await new Promise((resolve) => setImmediate(resolve));
        }
      },
    ],
  ])('answers with %s: that is an answer', async (_, several) => {
    const { host, requests, sockets } = await serve(several);
    await (await open(host)).profile();
    expect(requests).toEqual([header(ALL)]);
    expect(sockets).toHaveLength(1);
    await (await open(host)).profile();
    expect(requests).toEqual([header(ALL), header(ALL)]);
  });

  const status =
    (line: string, body = ''): Answer =>
    (_, socket) =>
      socket.write(head(line, 'text/plain', body.length) + body);
  const endless =
    (first: string, chunk: string | Buffer): Answer =>
    (_, socket) => {
      socket.write(first);
      const more = (): void => {
        while (!socket.destroyed && socket.write(chunk));
      };
      socket.on('drain', more);
      more();
    };
  test.each<[string, Answer]>([
    ['200 with the whole blob', (_, socket) => socket.write(head('200 OK', 'a/b', blob.length)) && socket.write(blob)],
    ['200 without an end', endless(head('200 OK', 'a/b', 2 ** 40), Buffer.alloc(65_536))],
    ['416', status('416 Range Not Satisfiable', 'no')],
    ['400', status('400 Bad Request')],
    ['501', status('501 Not Implemented')],
    ['204', status('204 No Content')],
    [
      'its first range alone',
      ([{ start, length } = { start: 0, length: 0 }], socket) => {
        const range = `Content-Range: bytes ${start}-${start + length - 1}/${blob.length}\r\n`;
        socket.write(head('206 Partial Content', 'application/octet-stream', length, range));
        socket.write(blob.subarray(start, start + length));
      },
    ],
    ['parts in the blob’s order', parts((ranges) => [...ranges].sort((a, b) => a.start - b.start))],
    ['joined parts', parts(([first]) => [{ start: 0, length: first!.start }])],
    ['a part twice', parts((ranges) => [ranges[0]!, ...ranges])],
    ['parts that are missing', parts((ranges) => ranges.slice(0, 2))],
    ['parts of other places', parts((ranges) => ranges.map(({ start, length }) => ({ start: start + 1, length })))],
    ['parts that are too long', parts((ranges) => ranges.map(({ start, length }) => ({ start, length: length + 1 })))],
    ['a wrong Content-Range over right bytes', parts(same, { fields: () => 'Content-Range: bytes 0-9/10\r\n' })],
    ['another boundary than it says', parts(same, { boundary: 'other' })],
    ['a boundary that is none', parts(same, {}, 'multipart/byteranges; boundary="')],
    ['a preamble', parts(same, { lead: 'MIME is fun.\r\n' })],
    ['an endless preamble', endless(head('206 Partial Content', TYPE, 2 ** 40), Buffer.alloc(65_536, '\r\n'))],
    ['an endless head of a part', parts(same, { fields: () => 'a: b\r\n'.repeat(30) + 'x'.repeat(100_000) })],
    ['line ends without CR', parts(same, { fields: (range) => `Content-Range: ${range}\n` })],
    [
      'chunks',
      (ranges, socket) => {
        const body = multipartAnswer(blob, ranges, PLAIN_STYLE);
        socket.write(head('206 Partial Content', TYPE, null, 'Transfer-Encoding: chunked\r\n'));
        socket.write(`${body.length.toString(16)}\r\n`);
        socket.write(body);
        socket.write('\r\n0\r\n\r\n');
      },
    ],
    [
      'an end that lacks its delimiter',
      (ranges, socket) => {
        const body = multipartAnswer(blob, ranges, PLAIN_STYLE).subarray(0, -8);
        socket.write(head('206 Partial Content', TYPE, body.length));
        socket.write(body);
      },
    ],
  ])('answers with %s: it is asked for single ranges from then on, and every byte is right', async (_, several) => {
    const { host, requests } = await serve(several);
    await (await open(host)).profile();
    expect(requests.filter(isSeveral)).toEqual([header(ALL)]);
    expect(requests[0]).toBe(header(ALL));
    await (await open(host)).profile();
    expect(requests.filter(isSeveral)).toHaveLength(1);
    expect(wrongAnswers()[`wrongAnswer.${host}.parts`]).toBe(1);
  });

  test('a reader that waits for what such a host was asked for ahead gets it by a single range', async () => {
    const { host, requests } = await serve(status('416 Range Not Satisfiable', 'no'));
    const { claim, metrics } = await open(host);
    const waits = PROFILE.map((span) => claim.ahead(span, Priority.readahead));
    await expect.poll(() => requests.length).toBeGreaterThan(0);
    const got = await claim.read(layerOffset[24]!, 100);
    expect(Buffer.compare(got, raw.subarray(layerOffset[24], layerOffset[24]! + 100))).toBe(0);
    await Promise.all(waits);
    expect(requests.filter(isSeveral)).toEqual([header(ALL)]);
    expect(metrics.snapshot()).toMatchObject({ spansFetched: 7, failedSpans: 0 });
  });

  test('little is read of an answer that is the whole blob', async () => {
    const { host, sockets } = await serve(endless(head('200 OK', 'a/b', 2 ** 40), Buffer.alloc(65_536)));
    await (await open(host)).profile();
    const [first] = sockets;
    await expect.poll(() => first!.destroyed).toBe(true);
    // What the kernel's buffers of both sides hold.
    expect(first!.bytesWritten).toBeLessThan(32 << 20);
  });

  test('a part that is cut off: what came of it counts, and the rest comes in one request', async () => {
    let cuts = 2;
    const { host, requests } = await serve((ranges, socket) => {
      const body = multipartAnswer(blob, ranges, PLAIN_STYLE);
      socket.write(head('206 Partial Content', TYPE, body.length));
      if (cuts-- <= 0) socket.write(body);
      else socket.end(body.subarray(0, SPAN + 10_000));
    });
    await (await open(host)).profile();
    expect(requests.filter(isSeveral)).toHaveLength(3);
    expect(requests.length).toBeLessThan(7);
    expect(wrongAnswers()).not.toHaveProperty(`wrongAnswer.${host}.parts`);
  });

  test('an answer that stops is given up, and goes on', async () => {
    let stops = 1;
    const { host, requests } = await serve((ranges, socket) => {
      const body = multipartAnswer(blob, ranges, PLAIN_STYLE);
      socket.write(head('206 Partial Content', TYPE, body.length));
      socket.write(stops-- > 0 ? body.subarray(0, 1.5 * SPAN) : body);
    });
    await (await open(host, { idleTimeoutMs: 200 })).profile();
    expect(requests.filter(isSeveral)).toHaveLength(2);
  });

  test('wrong bytes in a part are found by their digest, and asked for alone', async () => {
    const { host, requests } = await serve((ranges, socket) => {
      const body = multipartAnswer(blob, ranges, PLAIN_STYLE);
      body[body.indexOf('\r\n\r\n') + 100]! ^= 1;
      socket.write(head('206 Partial Content', TYPE, body.length));
      socket.write(body);
    });
    const { profile, metrics } = await open(host);
    await profile();
    expect(requests).toEqual([header(ALL), header(ALL.slice(0, 1))]);
    expect(metrics.snapshot()).toMatchObject({ digestMismatches: 1 });
  });
});
