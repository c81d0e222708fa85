import { chmodSync } from 'node:fs';
import { Agent, createServer, type IncomingMessage, request, type Server, type ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { type ContentCache, type ContentOptions, checkHash, collect } from './types.js';

/*
 * A content cache in another process of this machine, by HTTP over a unix socket (docs/api.md): the cache of `unix:/path`, and
 * the way by which a library's engine, which is a process of its own, reaches its caller's cache.
 *
 *   GET  /HASH?routingKey=…   with `Range: bytes=FIRST-LAST`: 206 and the bytes, 404 for a miss
 *   HEAD /HASH?…&length=N     200 or 404
 *   PUT  /HASH?routingKey=…   the content; 204 when it is stored as a whole
 *
 * Anything else says that the cache is unavailable.
 */

/** Spans are a few MiB: a request for more than this is not one of clip's. */
const MAX_LENGTH = 1 << 30;
/** Of an error's text, in characters. */
const MAX_REASON = 500;
/** Answers that are not content hold an error's text, if anything. */
const MAX_OTHER_BYTES = 64 * 1024;
/** As many lookups as the span queue has requests under way. */
const MAX_SOCKETS = 32;

interface Reply {
  readonly status: number;
  readonly body: Buffer;
}

/** The cache behind a socket. */
export class SocketContentCache implements ContentCache {
  readonly #path: string;
  readonly #agent = new Agent({ keepAlive: true, maxSockets: MAX_SOCKETS });

  constructor(path: string) {
    this.#path = path;
  }

  async getContent(hash: string, offset: number, length: number, options: ContentOptions): Promise<Uint8Array | null> {
    const range = { range: `bytes=${offset}-${offset + length - 1}` };
    const { status, body } = await this.#send(
      'GET',
      hash,
      { routingKey: options.routingKey },
      range,
      options.signal,
      length,
    );
    if (status === 404) return null;
    if (status !== 206) throw this.#unavailable(status, body);
    return body.length === length ? body : null;
  }

  async storeContent(chunks: AsyncIterable<Uint8Array>, hash: string, options: ContentOptions): Promise<string | null> {
    const { status, body } = await this.#send(
      'PUT',
      hash,
      { routingKey: options.routingKey },
      {},
      options.signal,
      0,
      chunks,
    );
    if (status === 409) return null;
    if (status !== 204) throw this.#unavailable(status, body);
    return hash;
  }

  async has(hash: string, options: ContentOptions & { readonly length: number }): Promise<boolean> {
    const { routingKey, length, signal } = options;
    const { status, body } = await this.#send('HEAD', hash, { routingKey, length: String(length) }, {}, signal, 0);
    if (status !== 200 && status !== 404) throw this.#unavailable(status, body);
    return status === 200;
  }

  async close(): Promise<void> {
    this.#agent.destroy();
  }

  #unavailable(status: number, body: Buffer): Error {
    return new Error(`content cache ${this.#path}: ${status} ${body.toString('utf8', 0, MAX_REASON).trim()}`);
  }

  #send(
    method: string,
    hash: string,
    query: Record<string, string>,
    headers: Record<string, string>,
    signal: AbortSignal | undefined,
    maxBytes: number,
    chunks?: AsyncIterable<Uint8Array>,
  ): Promise<Reply> {
    return new Promise((resolve, reject) => {
      const outgoing = request(
        {
          socketPath: this.#path,
          agent: this.#agent,
          method,
          path: `/${checkHash(hash)}?${new URLSearchParams(query)}`,
          headers,
          ...(signal === undefined ? {} : { signal }),
        },
        (response) => {
          const status = response.statusCode ?? 0;
          // To leave the iteration early destroys the response and its connection.
          collect(response as AsyncIterable<Uint8Array>, status === 206 ? maxBytes : MAX_OTHER_BYTES).then(
            (body) => resolve({ status, body: Buffer.from(body) }),
            reject,
          );
        },
      );
      outgoing.on('error', reject);
      if (chunks === undefined) outgoing.end();
      else pipeline(Readable.from(chunks), outgoing).catch(reject);
    });
  }
}

/**
 * Serves a cache of this process to others of the same user. Does not keep the process alive.
 * @returns ends it; the cache stays open
 */
export async function serveContentCache(cache: ContentCache, path: string): Promise<() => void> {
  const server: Server = createServer((incoming, response) => {
    const gone = new AbortController();
    response.on('close', () => gone.abort());
    answer(cache, incoming, response, gone.signal).catch((error: unknown) => {
      if (response.headersSent) response.destroy();
      else {
        incoming.resume();
        response.writeHead(503).end(String(error instanceof Error ? error.message : error).slice(0, MAX_REASON));
      }
    });
  });
  server.on('connection', (socket) => socket.unref());
  server.on('clientError', (_error, socket) => socket.destroy());
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(path, resolve));
  chmodSync(path, 0o600);
  server.unref();
  return () => {
    server.close();
    server.closeAllConnections();
  };
}

async function answer(
  cache: ContentCache,
  incoming: IncomingMessage,
  response: ServerResponse,
  signal: AbortSignal,
): Promise<void> {
  const url = new URL(incoming.url ?? '/', 'http://cache');
  const hash = checkHash(url.pathname.slice(1));
  const options = { routingKey: url.searchParams.get('routingKey') ?? '', signal };
  if (incoming.method === 'PUT') {
    const whole = incoming as AsyncIterable<Uint8Array>;
    const stored = await cache.storeContent(whole, hash, options);
    incoming.resume(); // the bytes that it did not read
    response.writeHead(stored === null ? 409 : 204).end();
  } else if (incoming.method === 'HEAD') {
    const length = Number(url.searchParams.get('length'));
    response.writeHead((await cache.has?.(hash, { ...options, length })) ? 200 : 404).end();
  } else {
    const [, first, last] = /^bytes=(\d{1,15})-(\d{1,15})$/.exec(incoming.headers.range ?? '') ?? [];
    const length = Number(last) - Number(first) + 1;
    if (incoming.method !== 'GET' || !(length > 0 && length <= MAX_LENGTH)) {
      response.writeHead(400).end('GET with "Range: bytes=FIRST-LAST", HEAD or PUT expected');
      return;
    }
    const found = await cache.getContent(hash, Number(first), length, options);
    if (found === null || found.length !== length) response.writeHead(404).end();
    else response.writeHead(206, { 'content-length': length }).end(found);
  }
}
