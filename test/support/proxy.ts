import {
  Agent,
  type ClientRequest,
  createServer,
  request as httpRequest,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from 'node:http';
import { createServer as createTlsServer, request as httpsRequest } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { Link } from './link.js';

/** One request that came through, as it went. `bytes` counts body bytes sent to the client. */
export interface ProxiedRequest {
  readonly method: string;
  readonly path: string;
  /** The Range header as it came, or null. */
  readonly range: string | null;
  readonly authorization: string | null;
  status: number;
  bytes: number;
  /** False while it runs, and for ever if it was cut off. */
  complete: boolean;
  /** When it came, when the first byte of the answer's body was sent, and the last so far: milliseconds since 1970. */
  readonly startedAt: number;
  firstAt: number;
  sentAt: number;
  /** Milliseconds that it waited for its connection. */
  handshake: number;
}

/** A fault to inject into a request, or an answer in place of the upstream's. */
export interface Fault {
  /** Wait before anything else. */
  readonly delayMs?: number;
  /** Close the connection without an answer. */
  readonly refuse?: boolean;
  /** Answer this without asking the registry. */
  readonly respond?: {
    readonly status: number;
    readonly headers?: Readonly<Record<string, string>>;
    readonly body?: string | Uint8Array;
  };
  /** Reset the connection after the registry was sent this many bytes of the request's body. */
  readonly resetRequestAfter?: number;
  /** Forward without the Range header: the client gets a 200 with everything. */
  readonly ignoreRange?: boolean;
  /** Forward with another Range header. */
  readonly range?: string;
  /** Change the response's headers (null deletes) or status. */
  readonly headers?: Readonly<Record<string, string | null>>;
  readonly status?: number;
  /** Reset the connection after this many bytes of the body. */
  readonly resetAfter?: number;
  /** Stop sending after this many bytes of the body, and keep the connection open. */
  readonly stallAfter?: number;
  /** End the connection in order after so many body bytes. */
  readonly endAfter?: number;
  /** From so many body bytes on, send a byte now and then. */
  readonly dripAfter?: number;
  /** Turn over a bit of this byte of the body. */
  readonly corruptAt?: number;
}

export interface ProxyOptions {
  /** "http://127.0.0.1:5000" */
  readonly upstream: string;
  /** Round-trip time: each request waits as long for its answer; a connection can be used as long after it was opened, for its handshake. */
  readonly latencyMs?: number;
  /** The link's rate, shared by all connections. */
  readonly bytesPerSecond?: number;
  /** The rate of one connection, as of a storage that serves each client slowly. */
  readonly connectionBytesPerSecond?: number;
  /** Where it listens. Default: 127.0.0.1. */
  readonly address?: string;
  /** To come back where another was. */
  readonly port?: number;
  /** Speak TLS with these: PEM. */
  readonly tls?: { readonly cert: string | Buffer; readonly key: string | Buffer };
}

export interface RegistryProxy {
  readonly host: string;
  readonly port: number;
  readonly url: string;
  readonly requests: ProxiedRequest[];
  /** Called for each request; return the fault to inject. */
  fault: ((request: ProxiedRequest, index: number) => Fault | null) | null;
  /** Connections accepted so far. */
  readonly connections: number;
  /** Requests for blobs; how many, and their body bytes. */
  blobTraffic(): { requests: number; bytes: number };
  /** Forgets the requests so far. */
  reset(): void;
  stop(): Promise<void>;
}

/** A counting reverse proxy in front of a registry, that can be slow, limited and faulty. */
export async function startProxy(options: ProxyOptions): Promise<RegistryProxy> {
  const proxy = new ReverseProxy(options);
  await proxy.listen();
  return proxy;
}

class ReverseProxy implements RegistryProxy {
  readonly requests: ProxiedRequest[] = [];
  fault: RegistryProxy['fault'] = null;
  connections = 0;
  host = '';
  port = 0;
  url = '';
  readonly #options: ProxyOptions;
  readonly #server: Server;
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 64 });
  readonly #link: Link | null;
  /** When the handshake is over: performance.now(). */
  readonly #openAt = new WeakMap<Socket, number>();
  readonly #slow = new WeakMap<Socket, Link>();
  #index = 0;

  constructor(options: ProxyOptions) {
    this.#options = options;
    this.#link = options.bytesPerSecond === undefined ? null : new Link(options.bytesPerSecond);
    const { tls } = options;
    const handle = (request: IncomingMessage, response: ServerResponse): void => this.#handle(request, response);
    this.#server =
      tls === undefined
        ? createServer({ keepAliveTimeout: 60_000 }, handle)
        : createTlsServer({ keepAliveTimeout: 60_000, ...tls }, handle);
    this.#server.on('connection', (socket: Socket) => {
      this.connections++;
      socket.setNoDelay(true);
      const { connectionBytesPerSecond: rate, latencyMs = 0 } = options;
      this.#openAt.set(socket, performance.now() + latencyMs);
      if (rate !== undefined) this.#slow.set(socket, new Link(rate));
    });
  }

  async listen(): Promise<void> {
    const { port = 0, address = '127.0.0.1' } = this.#options;
    await new Promise<void>((resolve) => this.#server.listen(port, address, resolve));
    this.port = (this.#server.address() as AddressInfo).port;
    this.host = `${address}:${this.port}`;
    this.url = `${this.#options.tls === undefined ? 'http' : 'https'}://${this.host}`;
  }

  blobTraffic(): { requests: number; bytes: number } {
    const blobs = this.requests.filter((entry) => entry.path.includes('/blobs/'));
    return { requests: blobs.length, bytes: blobs.reduce((sum, entry) => sum + entry.bytes, 0) };
  }

  reset(): void {
    this.requests.length = 0;
    this.#index = 0;
  }

  #handle(request: IncomingMessage, response: ServerResponse): void {
    const entry: ProxiedRequest = {
      method: request.method ?? '',
      path: request.url ?? '',
      range: request.headers.range ?? null,
      authorization: request.headers.authorization ?? null,
      status: 0,
      bytes: 0,
      complete: false,
      startedAt: performance.timeOrigin + performance.now(),
      sentAt: 0,
      firstAt: 0,
      handshake: 0,
    };
    this.requests.push(entry);
    const fault = this.fault?.(entry, this.#index++) ?? {};
    const roundTrip = this.#options.latencyMs ?? 0;
    const handshake = Math.max(0, (this.#openAt.get(request.socket) ?? 0) - performance.now());
    entry.handshake = handshake;
    const wait = roundTrip + handshake + (fault.delayMs ?? 0);
    const go = (): void => this.#forward(request, response, entry, fault);
    if (wait === 0) go();
    else setTimeout(go, wait);
  }

  #forward(request: IncomingMessage, response: ServerResponse, entry: ProxiedRequest, fault: Fault): void {
    if (fault.refuse) {
      request.socket.destroy();
      return;
    }
    if (fault.respond !== undefined) {
      const { status, headers = {}, body = '' } = fault.respond;
      entry.status = status;
      entry.bytes = body.length;
      entry.complete = true;
      response.writeHead(status, { 'content-length': String(Buffer.byteLength(body)), ...headers }).end(body);
      return;
    }
    const headers = { ...request.headers };
    if (fault.ignoreRange) delete headers.range;
    if (fault.range !== undefined) headers.range = fault.range;
    const send = this.#options.upstream.startsWith('https:') ? httpsRequest : httpRequest;
    const upstream = send(`${this.#options.upstream}${entry.path}`, {
      method: entry.method,
      headers,
      ...(send === httpRequest ? { agent: this.#agent } : { rejectUnauthorized: false }),
    });
    upstream.on('error', () => response.socket?.destroy());
    response.on('close', () => {
      if (!entry.complete) upstream.destroy();
    });
    upstream.on('response', (answer) => {
      entry.status = fault.status ?? answer.statusCode ?? 0;
      const changed: Record<string, string | string[] | undefined> = { ...answer.headers };
      for (const [name, value] of Object.entries(fault.headers ?? {})) {
        if (value === null) delete changed[name];
        else changed[name] = value;
      }
      response.writeHead(entry.status, changed);
      void this.#relay(answer, response, entry, fault);
    });
    if (fault.resetRequestAfter === undefined) request.pipe(upstream);
    else this.#cutBody(request, upstream, fault.resetRequestAfter);
  }

  #cutBody(request: IncomingMessage, upstream: ClientRequest, length: number): void {
    let sent = 0;
    request.on('data', (chunk: Buffer) => {
      if (sent === length) return;
      const part = chunk.subarray(0, length - sent);
      sent += part.length;
      upstream.write(part, () => {
        if (sent < length || upstream.destroyed) return;
        upstream.destroy();
        request.socket.resetAndDestroy();
      });
    });
  }

  async #relay(answer: IncomingMessage, response: ServerResponse, entry: ProxiedRequest, fault: Fault): Promise<void> {
    try {
      for await (const data of answer) {
        let chunk = data as Buffer;
        const at = entry.bytes;
        if (fault.corruptAt !== undefined && fault.corruptAt >= at && fault.corruptAt < at + chunk.length) {
          chunk = Buffer.from(chunk);
          chunk[fault.corruptAt - at]! ^= 0x10;
        }
        const never = Number.POSITIVE_INFINITY;
        const { resetAfter = never, stallAfter = never, endAfter = never, dripAfter = never } = fault;
        const cut = Math.min(resetAfter, stallAfter, endAfter, dripAfter) - at;
        const rest = cut < chunk.length ? chunk.subarray(cut) : chunk.subarray(0, 0);
        if (cut <= chunk.length) chunk = chunk.subarray(0, cut);
        if (this.#link !== null) await this.#link.send(chunk.length);
        const slow = response.socket === null ? undefined : this.#slow.get(response.socket);
        if (slow !== undefined) await slow.send(chunk.length);
        entry.bytes += chunk.length;
        entry.firstAt ||= performance.timeOrigin + performance.now();
        entry.sentAt = performance.timeOrigin + performance.now();
        if (!response.write(chunk) && !response.destroyed) {
          await drained(response);
        }
        if (response.destroyed) return;
        if (entry.bytes === fault.resetAfter) {
          // The bytes that were written must arrive before the reset overtakes them.
          // Node resets no TLS connection: it is cut.
          const { tls } = this.#options;
          setTimeout(() => (tls === undefined ? response.socket?.resetAndDestroy() : response.socket?.destroy()), 20);
          return;
        }
        if (entry.bytes === fault.stallAfter) return;
        if (entry.bytes === fault.endAfter) {
          response.socket?.end();
          return;
        }
        if (entry.bytes === fault.dripAfter) {
          for (const byte of rest) {
            if (response.destroyed) return;
            response.write(Buffer.of(byte));
            await new Promise((resolve) => setTimeout(resolve, 50));
          }
          return;
        }
      }
      entry.complete = true;
      response.end();
    } catch {
      response.socket?.destroy();
    }
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    this.#agent.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

function drained(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      response.off('drain', done);
      response.off('close', done);
      resolve();
    };
    response.on('drain', done);
    response.on('close', done);
  });
}
