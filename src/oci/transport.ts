import { Agent, type ClientRequest, request as httpRequest, type IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { ClipError } from '../bytes/index.js';
import { checkLiteral, type Locality, localityOf, type Reach } from './addresses.js';
import { Body } from './body.js';
import { bareHost, CONNECT_TIMEOUT_MS, Network, portOf, readyEvent } from './network.js';
import { type ProxySettings, proxyFor } from './proxy.js';
import { StallTimer } from './stall.js';
import type { TrustOptions } from './tls-trust.js';
import { Turns } from './turns.js';

/** Connections kept to one origin: one for each request that lazy/ has under way, or a reader's would wait for a connection. */
export const DEFAULT_CONNECTIONS = 32;
/** A registry in front of another may have to fetch a blob first; most give up on that after 30 s themselves. */
export const HEAD_TIMEOUT_MS = 30_000;
/** Fewer than STALL_BYTES of a body in this time: the connection is given up, and the request goes on over another. */
export const STALL_MS = 10_000;
/** One packet: also a link of 1 KiB/s carries more. */
export const STALL_BYTES = 1460;
/** A mount is quiet for minutes between reads; registries and their load balancers close at 60 s or later. */
export const KEEP_ALIVE_MS = 55_000;

export interface TransportOptions extends TrustOptions {
  readonly connections?: number | undefined;
  readonly proxy?: ProxySettings | undefined;
  /** In place of HEAD_TIMEOUT_MS and STALL_MS. */
  readonly idleTimeoutMs?: number | undefined;
}

export interface Request {
  readonly method?: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array;
  /** Told of the bytes of the body that the connection has taken. */
  readonly onSent?: ((bytes: number) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
  /** How local the address may be: null for what the user named. */
  readonly reach: Reach;
}

export interface Response {
  readonly url: URL;
  readonly status: number;
  /** Lower-case names; repeated ones joined by ", ". */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Body;
  /** Of the address that answered: what its redirects may lead to. */
  readonly locality: Locality;
}

/** A failure between this machine and a server, with the code that errors.ts goes by. */
function failure(message: string, code: string): Error {
  return Object.assign(new Error(message), { code });
}

/** The pool of connections to one origin, by one way. Node's Agent keeps them; they are made here. */
class OriginAgent extends Agent {
  readonly #connect: () => Promise<Duplex>;
  /** Node does not count connections that are still being made, so requests wait for their turn instead. */
  readonly turns: Turns;

  constructor(connections: number, connect: () => Promise<Duplex>) {
    super({ keepAlive: true, timeout: KEEP_ALIVE_MS });
    this.turns = new Turns(connections);
    this.#connect = connect;
  }

  override createConnection(_: unknown, callback?: (error: Error | null, socket: Duplex) => void): undefined {
    this.#connect().then(
      (socket) => callback?.(null, socket),
      (error: Error) => callback?.(error, undefined as unknown as Duplex),
    );
  }
}

/**
 * HTTP/1.1 with kept-alive connections and proxies, for everything but the bytes of blobs that direct-get.ts gets. No policy:
 * it neither retries, nor follows, nor authenticates.
 */
export class Transport {
  readonly network: Network;
  readonly #options: TransportOptions;
  readonly #agents = new Map<string, OriginAgent>();
  #closed = false;

  constructor(options: TransportOptions) {
    this.#options = options;
    this.network = new Network(options);
  }

  /** Resolves with the response's head; its body follows. Rejects with the error of Node or of the socket. */
  async send(url: URL, request: Request): Promise<Response> {
    const { signal } = request;
    if (this.#closed) throw new ClipError('ABORTED', `the connection to ${url.host} is closed`);
    signal?.throwIfAborted();
    const at = proxyFor(url, this.#options.proxy ?? {});
    const proxy = at === null ? null : new URL(at);
    if (proxy !== null) checkLiteral(url.hostname, request.reach);
    const agent = this.#agent(url, request.reach, proxy);
    const done = await agent.turns.take();
    try {
      for (;;) {
        if (this.#closed) throw new ClipError('ABORTED', `the connection to ${url.host} is closed`);
        signal?.throwIfAborted();
        try {
          return await this.#exchange(url, request, proxy, agent, done);
        } catch (error) {
          // The server closed an idle connection while the request was on its way.
          if (!(error instanceof StaleConnection)) throw error;
        }
      }
    } catch (error) {
      done();
      throw error;
    }
  }

  /** @param done called when the body has ended; not when this rejects */
  #exchange(url: URL, request: Request, proxy: URL | null, agent: OriginAgent, done: () => void): Promise<Response> {
    const { method = 'GET', headers = {}, body, onSent, signal } = request;
    const forward = proxy !== null && url.protocol === 'http:';
    const length = body === undefined ? {} : { 'content-length': String(Buffer.byteLength(body)) };
    const idle = this.#options.idleTimeoutMs;
    return new Promise((resolve, reject) => {
      const outgoing = httpRequest({
        agent,
        method,
        host: bareHost(url),
        port: portOf(url),
        // A plain-HTTP target is asked of the proxy by its absolute URL (RFC 9112 §3.2.2); many proxies CONNECT only to 443.
        path: forward ? url.href.replace(/#.*$/, '') : url.pathname + url.search,
        headers: { host: url.host, ...length, ...headers, ...(forward && proxyAuthorization(proxy)) },
      });
      let settled = false;
      const giveUp = (error: Error): void => {
        outgoing.destroy(error);
      };
      const onAbort = (): void => giveUp(signal!.reason instanceof Error ? signal!.reason : new Error('aborted'));
      signal?.addEventListener('abort', onAbort, { once: true });
      const release = (): void => signal?.removeEventListener('abort', onAbort);
      const timer = setTimeout(
        () => giveUp(failure(`no answer within ${(idle ?? HEAD_TIMEOUT_MS) / 1000} s`, 'CLIP_HEAD_TIMEOUT')),
        idle ?? HEAD_TIMEOUT_MS,
      );
      outgoing.on('error', (error: NodeJS.ErrnoException) => {
        clearTimeout(timer);
        if (settled) return; // the body says it
        release();
        // An upload may have been taken in part: its caller begins it anew.
        const upload = method === 'PUT' || method === 'PATCH';
        const stale = !upload && outgoing.reusedSocket && (error.code === 'ECONNRESET' || error.code === 'EPIPE');
        reject(stale ? new StaleConnection(error) : error);
      });
      outgoing.on('response', (incoming) => {
        clearTimeout(timer);
        settled = true;
        resolve({
          url,
          status: incoming.statusCode ?? 0,
          headers: joinHeaders(incoming),
          body: bodyOf(outgoing, incoming, idle ?? STALL_MS, () => {
            release();
            done();
          }),
          locality: proxy === null ? localityOf(incoming.socket.remoteAddress ?? '') : 'public',
        });
      });
      if (typeof body === 'string' || body === undefined) outgoing.end(body);
      else
        sendPieces(outgoing, body, (bytes) => {
          timer.refresh(); // a long upload over a slow link is no silent server
          onSent?.(bytes);
        });
    });
  }

  #agent(url: URL, reach: Reach, proxy: URL | null): OriginAgent {
    const key = `${url.origin} ${reach} ${proxy?.href ?? ''}`;
    let agent = this.#agents.get(key);
    if (agent === undefined) {
      const connect = (): Promise<Duplex> =>
        proxy === null ? ready(url, this.network.connect(url, reach)) : this.#throughProxy(url, proxy);
      agent = new OriginAgent(this.#options.connections ?? DEFAULT_CONNECTIONS, connect);
      this.#agents.set(key, agent);
    }
    return agent;
  }

  /** To a plain-HTTP target the proxy itself is the peer; to one that speaks TLS it gives a tunnel (RFC 9110 §9.3.6). */
  async #throughProxy(url: URL, proxy: URL): Promise<Duplex> {
    if (proxy.protocol !== 'http:' && proxy.protocol !== 'https:') {
      throw failure(`a proxy by ${proxy.protocol} is not supported`, 'CLIP_PROXY');
    }
    const socket = await ready(proxy, this.network.connect(proxy, null)).catch((error: NodeJS.ErrnoException) => {
      throw failure(`cannot connect to the proxy ${proxy.host}: ${error.message}`, 'CLIP_PROXY');
    });
    if (url.protocol === 'http:') return socket;
    const authority = `${url.hostname}:${portOf(url)}`;
    await tunnel(socket, authority, proxy);
    return ready(url, this.network.secure(url, { socket }));
  }

  /** Ends what is under way, and closes every connection. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const agent of this.#agents.values()) {
      agent.destroy();
      agent.turns.close();
    }
    this.#agents.clear();
  }
}

/** A request that a kept-alive connection could not take any more: it can go over another. */
class StaleConnection extends Error {
  constructor(cause: Error) {
    super(cause.message, { cause });
  }
}

function joinHeaders(incoming: IncomingMessage): Record<string, string> {
  const joined: Record<string, string> = {};
  for (const [name, values] of Object.entries(incoming.headersDistinct)) {
    if (values !== undefined) joined[name] = values.join(', ');
  }
  return joined;
}

/** Of an upload. */
const PIECE_BYTES = 256 * 1024;

function sendPieces(outgoing: ClientRequest, body: Uint8Array, onSent: (bytes: number) => void): void {
  const send = (at: number): void => {
    const piece = body.subarray(at, at + PIECE_BYTES);
    if (piece.length === 0) {
      outgoing.end();
      return;
    }
    outgoing.write(piece, (error) => {
      if (error) return; // the request says it
      onSent(at + piece.length);
      send(at + piece.length);
    });
  };
  send(0);
}

function bodyOf(outgoing: ClientRequest, incoming: IncomingMessage, stallMs: number, release: () => void): Body {
  const stall = new StallTimer(stallMs, STALL_BYTES, () =>
    outgoing.destroy(failure('the body stopped coming', 'CLIP_BODY_TIMEOUT')),
  );
  const body = new Body({
    pause: () => {
      stall.paused = true;
      incoming.pause();
    },
    resume: () => {
      stall.paused = false;
      incoming.resume();
    },
    abort: (reason) => outgoing.destroy(reason),
  });
  const end = (error: Error | null): void => {
    stall.stop();
    release();
    body.end(error);
  };
  stall.start();
  incoming.on('data', (chunk: Buffer) => {
    stall.received(chunk.length);
    body.push(chunk);
  });
  incoming.on('end', () => end(null));
  incoming.on('error', end);
  incoming.on('close', () => end(failure('the connection ended in the middle of the body', 'ECONNRESET')));
  return body;
}

/** Resolves when the socket can be used. Rejects with its error, or after CONNECT_TIMEOUT_MS. */
function ready(url: URL, socket: Socket): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const done = (error: Error | null): void => {
      clearTimeout(timer);
      socket.off('error', done).off('close', closed);
      if (error === null) resolve(socket);
      else {
        socket.on('error', () => {}).destroy();
        reject(error);
      }
    };
    const closed = (): void => done(failure('the connection was closed', 'ECONNRESET'));
    const timer = setTimeout(() => done(failure('connecting took too long', 'ETIMEDOUT')), CONNECT_TIMEOUT_MS);
    socket
      .once(readyEvent(url), () => done(null))
      .on('error', done)
      .on('close', closed);
  });
}

/** Has the proxy connect `socket` to "host:port". */
function tunnel(socket: Socket, authority: string, proxy: URL): Promise<void> {
  return new Promise((resolve, reject) => {
    const outgoing = httpRequest({
      createConnection: () => socket,
      method: 'CONNECT',
      path: authority,
      headers: { host: authority, ...proxyAuthorization(proxy) },
      timeout: CONNECT_TIMEOUT_MS,
    });
    outgoing.on('connect', (response) => {
      if (response.statusCode === 200) return resolve();
      socket.destroy();
      reject(failure(`the proxy ${proxy.host} answers ${response.statusCode} to CONNECT`, 'CLIP_PROXY'));
    });
    outgoing.on('timeout', () => outgoing.destroy(failure(`the proxy ${proxy.host} does not answer`, 'CLIP_PROXY')));
    outgoing.on('error', (error) => reject(failure(`the proxy ${proxy.host} failed: ${error.message}`, 'CLIP_PROXY')));
    outgoing.end();
  });
}

function proxyAuthorization(proxy: URL): Record<string, string> {
  if (proxy.username === '') return {};
  const login = `${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`;
  return { 'proxy-authorization': `Basic ${Buffer.from(login).toString('base64')}` };
}
