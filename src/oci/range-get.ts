import { connect as connectTcp, type Socket } from 'node:net';
import { type ConnectionOptions, connect as connectTls, type SecureContext } from 'node:tls';
import { HEAD_END, ResponseHead, requestHead } from './http-head.js';

/** A response's head, and what of its body comes with it and is copied: the rest goes where it belongs at once. */
const HEAD_BYTES = 8 * 1024;
const CONNECT_TIMEOUT_MS = 10_000;
const IDENTITY = { 'accept-encoding': 'identity' };

/** One GET with a Range header, into memory that the caller has. */
export interface RangeGet {
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  /** The first byte; as many as `target` has are asked for. */
  readonly start: number;
  /** Of the blob. */
  readonly size: number;
  readonly target: Uint8Array;
  readonly signal?: AbortSignal | undefined;
  /** So many bytes are there. What it returns is waited for before more are read. */
  readonly onBytes?: ((received: number) => Promise<void> | null) | undefined;
}

export interface RangeGot {
  /** Bytes of the range, from its start on, that are in the target and are what the server says they are. */
  readonly received: number;
  /** False: the server answers, but not to ranges as we ask for them. */
  readonly fit: boolean;
}

export interface RangeConnectionOptions {
  /** Per origin. */
  readonly connections: number;
  /** No byte for this long: the connection is given up. */
  readonly idleMs: number;
  /** An unused connection is closed after this. */
  readonly keepAliveMs: number;
  secureContext(host: string, port: number): SecureContext;
}

interface Origin {
  readonly idle: Connection[];
  /** Requests under way. */
  busy: number;
  readonly waiting: (() => void)[];
  /** The last TLS session, to resume. */
  session: Buffer | undefined;
}

/**
 * GETs ranges over kept-alive connections of HTTP/1.1, each from the socket into the buffer where its bytes are needed. A general
 * HTTP client gives each 64 KiB a buffer of its own (docs/internals/decisions/0004-own-range-client.md).
 *
 * It accepts one answer: 206 with exactly the range. On anything else (a login, a redirect, an error, a lost connection) it gives
 * up, and the caller goes on with a client that handles those.
 */
export class RangeConnections {
  readonly #options: RangeConnectionOptions;
  readonly #origins = new Map<string, Origin>();
  readonly #all = new Set<Connection>();
  #closed = false;

  constructor(options: RangeConnectionOptions) {
    this.#options = options;
  }

  /** Never rejects; after an abort it resolves with what had come. */
  async get(request: RangeGet): Promise<RangeGot> {
    const origin = this.#origin(request.url);
    if (origin.busy < this.#options.connections) origin.busy++;
    else await new Promise<void>((resolve) => origin.waiting.push(resolve));
    try {
      return await this.#get(request, origin);
    } finally {
      const next = origin.waiting.shift();
      if (next === undefined) origin.busy--;
      else next(); // in our place
    }
  }

  async #get(request: RangeGet, origin: Origin): Promise<RangeGot> {
    for (;;) {
      if (this.#closed || request.signal?.aborted) return { received: 0, fit: true };
      const connection = origin.idle.pop() ?? this.#connect(request.url, origin);
      const { reused } = connection;
      const got = await connection.run(request);
      if (connection.usable && !this.#closed) origin.idle.push(connection);
      else connection.destroy();
      // Closed for its idleness, just as we wrote: another may be fine.
      if (got === null && reused) continue;
      return got ?? { received: 0, fit: true };
    }
  }

  close(): void {
    this.#closed = true;
    for (const connection of this.#all) connection.destroy();
    for (const { waiting } of this.#origins.values()) for (const go of waiting.splice(0)) go();
  }

  #origin({ origin }: URL): Origin {
    let known = this.#origins.get(origin);
    if (known === undefined) {
      known = { idle: [], busy: 0, waiting: [], session: undefined };
      this.#origins.set(origin, known);
    }
    return known;
  }

  #connect(url: URL, origin: Origin): Connection {
    const connection = new Connection(url, origin, this.#options);
    this.#all.add(connection);
    connection.socket.once('close', () => {
      this.#all.delete(connection);
      const at = origin.idle.indexOf(connection);
      if (at >= 0) origin.idle.splice(at, 1);
    });
    return connection;
  }
}

interface Transfer {
  readonly request: RangeGet;
  received: number;
  inBody: boolean;
  keepAlive: boolean;
  /** null: not a byte of an answer came. */
  readonly resolve: (got: RangeGot | null) => void;
}

class Connection {
  readonly socket: Socket;
  readonly #options: RangeConnectionOptions;
  readonly #head = Buffer.allocUnsafeSlow(HEAD_BYTES);
  #headLength = 0;
  #transfer: Transfer | null = null;
  #used = false;
  #usable = true;

  constructor(url: URL, origin: Origin, options: RangeConnectionOptions) {
    this.#options = options;
    const host = url.hostname.replace(/^\[|\]$/g, '');
    const onread = {
      buffer: (): Uint8Array => this.#buffer(),
      callback: (length: number): boolean => this.#onRead(length),
    };
    if (url.protocol === 'https:') {
      const port = Number(url.port || 443);
      const isName = /[a-z]/i.test(host) && !host.includes(':');
      // @types/node lacks `onread` here.
      const target: ConnectionOptions & { onread: typeof onread } = {
        host,
        port,
        ...(isName && { servername: host }),
        secureContext: options.secureContext(host, port),
        ALPNProtocols: ['http/1.1'],
        ...(origin.session !== undefined && { session: origin.session }),
        onread,
      };
      const socket = connectTls(target);
      socket.on('session', (session) => {
        origin.session = session;
      });
      this.socket = socket;
    } else {
      this.socket = connectTcp({ host, port: Number(url.port || 80), onread });
    }
    this.socket.setNoDelay(true);
    const lost = (): void => {
      this.#usable = false;
      this.#settle();
    };
    this.socket.on('error', lost).on('end', lost).on('close', lost);
    this.socket.setTimeout(CONNECT_TIMEOUT_MS, () => this.destroy());
    this.socket.once(url.protocol === 'https:' ? 'secureConnect' : 'connect', () =>
      this.socket.setTimeout(options.idleMs),
    );
  }

  /** It has served a request before: that it is closed now need not mean anything. */
  get reused(): boolean {
    return this.#used;
  }

  get usable(): boolean {
    return this.#usable && !this.socket.destroyed;
  }

  /** One request at a time. */
  run(request: RangeGet): Promise<RangeGot | null> {
    const { url, headers, start, target, signal } = request;
    return new Promise((resolve) => {
      const abort = (): void => this.destroy();
      this.#transfer = {
        request,
        received: 0,
        inBody: false,
        keepAlive: false,
        resolve: (got) => {
          signal?.removeEventListener('abort', abort);
          resolve(got);
        },
      };
      signal?.addEventListener('abort', abort, { once: true });
      const range = `bytes=${start}-${start + target.length - 1}`;
      const head = requestHead(url, { ...IDENTITY, ...headers, range });
      if (head === null || !this.usable) {
        this.#settle();
        return;
      }
      if (this.#used) {
        this.socket.ref();
        this.socket.setTimeout(this.#options.idleMs);
      }
      this.#used = true;
      this.socket.write(head, 'latin1');
    });
  }

  destroy(): void {
    this.#usable = false;
    this.socket.destroy();
    this.#settle();
  }

  /** Where the next bytes go. */
  #buffer(): Uint8Array {
    const transfer = this.#transfer;
    if (transfer?.inBody) return transfer.request.target.subarray(transfer.received);
    return this.#head.subarray(this.#headLength);
  }

  /** False: read no more for now. */
  #onRead(length: number): boolean {
    const transfer = this.#transfer;
    if (transfer === null) {
      this.destroy(); // nobody asked for anything
      return false;
    }
    if (transfer.inBody) transfer.received += length;
    else {
      this.#headLength += length;
      const end = this.#head.subarray(0, this.#headLength).indexOf(HEAD_END);
      if (end < 0 && this.#headLength < HEAD_BYTES) return true;
      if (end < 0 || !this.#begin(transfer, end)) {
        this.destroy();
        return false;
      }
    }
    return this.#progress(transfer);
  }

  /** The head is there, up to `end`. False when it is not the answer that was hoped for. */
  #begin(transfer: Transfer, end: number): boolean {
    const { start, size, target } = transfer.request;
    const head = new ResponseHead(this.#head.toString('latin1', 0, end));
    const rest = this.#head.subarray(end + HEAD_END.length, this.#headLength);
    this.#headLength = 0;
    const range = `bytes ${start}-${start + target.length - 1}/`;
    const ranges = head.values('content-range');
    const right =
      head.status === 206 &&
      head.isPlain(target.length) &&
      ranges.length === 1 &&
      (ranges[0] === `${range}${size}` || ranges[0] === `${range}*`);
    if (!right || rest.length > target.length) {
      // A refusal, a redirect, a server in trouble: that may change. Another kind of success will not.
      this.#finish({ received: 0, fit: head.status < 200 || head.status >= 300 });
      return false;
    }
    target.set(rest);
    transfer.received = rest.length;
    transfer.inBody = true;
    transfer.keepAlive = head.keepsAlive;
    return true;
  }

  #progress(transfer: Transfer): boolean {
    const { request, received } = transfer;
    const wait = request.onBytes?.(received) ?? null;
    if (received === request.target.length) {
      if (transfer.keepAlive) {
        this.socket.setTimeout(this.#options.keepAliveMs);
        this.socket.unref();
      } else this.#usable = false;
      this.#finish({ received, fit: true });
      return true;
    }
    if (wait === null) return true;
    void wait.then(() => this.socket.resume());
    return false;
  }

  #settle(): void {
    const transfer = this.#transfer;
    if (transfer === null) return;
    const answered = transfer.inBody || this.#headLength > 0;
    this.#finish(answered ? { received: transfer.received, fit: true } : null);
  }

  #finish(got: RangeGot | null): void {
    const transfer = this.#transfer;
    this.#transfer = null;
    transfer?.resolve(got);
  }
}
