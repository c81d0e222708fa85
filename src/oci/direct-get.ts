import type { Socket } from 'node:net';
import type { Reach } from './addresses.js';
import { CONNECT_TIMEOUT_MS, type Network, readyEvent } from './network.js';
import { HEAD_END, ResponseHead, requestHead } from './response-head.js';
import type { BlobTarget } from './source.js';
import { StallTimer } from './stall.js';
import { Turns } from './turns.js';
import type { WrongAnswer } from './wrong-answers.js';

/** A response's head and what comes with it of the body, which is copied. The rest goes where it belongs at once. */
const HEAD_BYTES = 8 * 1024;
const IDENTITY = { 'accept-encoding': 'identity' };

/** A GET whose answer is known but for its bytes: a range of a blob, or all of it. */
export interface DirectGet {
  readonly url: URL;
  readonly reach: Reach;
  readonly headers: Readonly<Record<string, string>>;
  /** The first byte. */
  readonly start: number;
  readonly length: number;
  /** Of the blob. A request for all of it has no Range header. */
  readonly size: number;
  readonly target: BlobTarget;
  readonly signal?: AbortSignal | undefined;
}

export interface DirectGot {
  /** Bytes, from the start on, that the target has and that are what the server says they are. */
  readonly received: number;
  /** False: the server succeeds, but its answer to a range is not that range. */
  readonly fit: boolean;
  /** How its success differs from what was asked for; null if it does not, or in form only. */
  readonly wrong: WrongAnswer | null;
}

export interface DirectOptions {
  /** Per origin. */
  readonly connections: number;
  /** No head of a response for this long: the connection is given up. */
  readonly headMs: number;
  /** Fewer than `stallBytes` of a body for this long: the connection is given up. */
  readonly stallMs: number;
  readonly stallBytes: number;
  /** An unused connection is closed after this. */
  readonly keepAliveMs: number;
}

interface Origin {
  readonly idle: Connection[];
  readonly turns: Turns;
}

/**
 * GETs bytes of blobs over kept-alive connections of HTTP/1.1, from the socket straight into the memory where they belong
 * (docs/internals/decisions/0004-own-range-client.md).
 *
 * It knows one answer: 206 with exactly the range, or 200 with exactly the blob. At anything else (a login, a redirect, an
 * error, a lost connection) it gives up, and the caller goes on with a client that knows what to do.
 */
export class DirectConnections {
  readonly #network: Network;
  readonly #options: DirectOptions;
  readonly #origins = new Map<string, Origin>();
  readonly #all = new Set<Connection>();
  #closed = false;

  constructor(network: Network, options: DirectOptions) {
    this.#network = network;
    this.#options = options;
  }

  /** Rejects with what the target rejects with, and with nothing else; after an abort it resolves with what had come. */
  async get(request: DirectGet): Promise<DirectGot> {
    const origin = this.#origin(request);
    const done = await origin.turns.take();
    try {
      return await this.#get(request, origin);
    } finally {
      done();
    }
  }

  async #get(request: DirectGet, origin: Origin): Promise<DirectGot> {
    for (;;) {
      if (this.#closed || request.signal?.aborted) return { received: 0, fit: true, wrong: null };
      const connection = origin.idle.pop() ?? this.#connect(request, origin);
      if (connection === null) return { received: 0, fit: true, wrong: null };
      const { reused } = connection;
      const got = await connection.run(request).catch((error: unknown) => {
        connection.destroy();
        throw error;
      });
      if (connection.usable && !this.#closed) origin.idle.push(connection);
      else connection.destroy();
      // The server closed an idle connection while the request was on its way: another connection may be fine.
      if (got === null && reused) continue;
      return got ?? { received: 0, fit: true, wrong: null };
    }
  }

  /** Opens connections for requests that are to come, so that these need not wait for handshakes. Of one that fails nothing is told. */
  open(url: URL, reach: Reach, count: number): void {
    const origin = this.#origin({ url, reach });
    for (let i = origin.idle.length; i < Math.min(count, this.#options.connections); i++) {
      const connection = this.#closed ? null : this.#connect({ url, reach }, origin);
      if (connection === null) return;
      connection.wait();
      origin.idle.push(connection);
    }
  }

  close(): void {
    this.#closed = true;
    for (const connection of this.#all) connection.destroy();
    for (const { turns } of this.#origins.values()) turns.close();
  }

  #origin({ url, reach }: Pick<DirectGet, 'url' | 'reach'>): Origin {
    const key = `${url.origin} ${reach}`;
    let known = this.#origins.get(key);
    if (known === undefined) {
      known = { idle: [], turns: new Turns(this.#options.connections) };
      this.#origins.set(key, known);
    }
    return known;
  }

  #connect({ url, reach }: Pick<DirectGet, 'url' | 'reach'>, origin: Origin): Connection | null {
    let connection: Connection;
    try {
      connection = new Connection(url, reach, this.#network, this.#options);
    } catch {
      return null; // a forbidden address or an unusable certificate: the other client says so
    }
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
  readonly request: DirectGet;
  received: number;
  inBody: boolean;
  keepAlive: boolean;
  /** What the target wants awaited before it is given more. */
  waiting: Promise<void> | null;
  /** null: not a byte of an answer came. */
  readonly resolve: (got: DirectGot | null) => void;
  readonly reject: (error: unknown) => void;
  /** Lets go of the abort signal. */
  readonly release: () => void;
}

class Connection {
  readonly socket: Socket;
  readonly #options: DirectOptions;
  readonly #stall: StallTimer;
  readonly #head = Buffer.allocUnsafeSlow(HEAD_BYTES);
  #headLength = 0;
  #transfer: Transfer | null = null;
  #ready = false;
  /** It has waited for a request, so that it may have been closed for its idleness. */
  #waited = false;
  #usable = true;

  constructor(url: URL, reach: Reach, network: Network, options: DirectOptions) {
    this.#options = options;
    this.#stall = new StallTimer(options.stallMs, options.stallBytes, () => this.destroy());
    this.socket = network.connect(url, reach, {
      buffer: () => this.#buffer(),
      callback: (length) => this.#onRead(length),
    });
    const lost = (): void => {
      this.#usable = false;
      this.#settle();
    };
    this.socket.on('error', lost).on('end', lost).on('close', lost);
    this.socket.setTimeout(CONNECT_TIMEOUT_MS, () => this.destroy());
    this.socket.once(readyEvent(url), () => {
      this.#ready = true;
      this.socket.setTimeout(options.headMs);
    });
  }

  get reused(): boolean {
    return this.#waited;
  }

  /** For a request that is to come. */
  wait(): void {
    this.#waited = true;
    this.socket.unref();
  }

  get usable(): boolean {
    return this.#usable && !this.socket.destroyed;
  }

  /** One request at a time. */
  run(request: DirectGet): Promise<DirectGot | null> {
    const { url, headers, start, length, size, signal } = request;
    return new Promise((resolve, reject) => {
      const abort = (): void => this.destroy();
      this.#transfer = {
        request,
        received: 0,
        inBody: false,
        keepAlive: false,
        waiting: null,
        resolve,
        reject,
        release: () => signal?.removeEventListener('abort', abort),
      };
      signal?.addEventListener('abort', abort, { once: true });
      const range = isWhole(request) ? {} : { range: `bytes=${start}-${start + length - 1}` };
      const head = size === 0 ? null : requestHead(url, { ...IDENTITY, ...headers, ...range });
      if (head === null || !this.usable) {
        this.#settle();
        return;
      }
      this.socket.ref();
      if (this.#ready) this.socket.setTimeout(this.#options.headMs);
      this.socket.write(head, 'latin1');
    });
  }

  destroy(): void {
    this.#usable = false;
    this.#stall.stop();
    this.socket.destroy();
    this.#settle();
  }

  /** Where the next bytes go. */
  #buffer(): Uint8Array {
    const transfer = this.#transfer;
    if (!transfer?.inBody) return this.#head.subarray(this.#headLength);
    const room = transfer.request.target.room();
    const left = transfer.request.length - transfer.received;
    return room.length <= left ? room : room.subarray(0, left);
  }

  /** False: read no more for now. */
  #onRead(length: number): boolean {
    const transfer = this.#transfer;
    if (transfer === null) {
      this.destroy(); // an answer to no request
      return false;
    }
    if (transfer.inBody) return this.#progress(transfer, length);
    this.#headLength += length;
    const end = this.#head.subarray(0, this.#headLength).indexOf(HEAD_END);
    if (end < 0 && this.#headLength < HEAD_BYTES) return true;
    if (end >= 0 && this.#begin(transfer, end)) {
      const rest = this.#head.subarray(end + HEAD_END.length, this.#headLength);
      this.#headLength = 0;
      return this.#copy(transfer, rest);
    }
    this.destroy();
    return false;
  }

  /** The head is there, up to `end`. False when it is not the wanted answer. */
  #begin(transfer: Transfer, end: number): boolean {
    const { start, length, size } = transfer.request;
    const head = new ResponseHead(this.#head.toString('latin1', 0, end));
    const range = `bytes ${start}-${start + length - 1}/`;
    const ranges = head.values('content-range');
    const exact = isWhole(transfer.request)
      ? head.status === 200
      : head.status === 206 && ranges.length === 1 && (ranges[0] === `${range}${size}` || ranges[0] === `${range}*`);
    if (!exact || !head.isPlain(length) || this.#headLength - end - HEAD_END.length > length) {
      // A refusal, a redirect or an error may pass. Another kind of success stays.
      this.#headLength = 0;
      const fit = head.status < 200 || head.status >= 300;
      const wrong = exact || fit ? null : wrongAnswer(head, transfer.request);
      this.#finish({ received: 0, fit, wrong });
      return false;
    }
    transfer.inBody = true;
    transfer.keepAlive = head.keepsAlive;
    this.socket.setTimeout(0);
    this.#stall.start();
    return true;
  }

  /** Of the body, what came with the head. False: read no more for now. */
  #copy(transfer: Transfer, rest: Uint8Array): boolean {
    for (let left = rest; left.length > 0; ) {
      if (transfer.waiting !== null) {
        // The target has no room yet, and the head's buffer is used again.
        const kept = left.slice();
        const go = (): void => {
          if (this.#transfer === transfer && !this.#copy(transfer, kept)) this.socket.pause();
        };
        transfer.waiting.then(go, () => {});
        return false;
      }
      const room = transfer.request.target.room();
      const piece = left.subarray(0, room.length);
      room.set(piece);
      left = left.subarray(piece.length);
      this.#progress(transfer, piece.length);
    }
    return transfer.waiting === null;
  }

  #progress(transfer: Transfer, bytes: number): boolean {
    transfer.received += bytes;
    this.#stall.received(bytes);
    const { length, target } = transfer.request;
    const waiting = target.filled(bytes);
    transfer.waiting = waiting;
    if (transfer.received === length) {
      this.#stall.stop();
      if (transfer.keepAlive) {
        this.socket.setTimeout(this.#options.keepAliveMs);
        this.wait();
      } else this.#usable = false;
      this.#finish({ received: length, fit: true, wrong: null });
      return true;
    }
    if (waiting === null) return true;
    this.#stall.paused = true;
    waiting.then(
      () => {
        if (transfer.waiting === waiting) transfer.waiting = null;
        this.#stall.paused = false;
        this.socket.resume();
      },
      () => this.destroy(),
    );
    return false;
  }

  #settle(): void {
    const transfer = this.#transfer;
    if (transfer === null) return;
    const answered = transfer.inBody || this.#headLength > 0;
    this.#finish(answered ? { received: transfer.received, fit: true, wrong: null } : null);
  }

  #finish(got: DirectGot | null): void {
    const transfer = this.#transfer;
    this.#transfer = null;
    if (transfer === null) return;
    transfer.release();
    const { waiting } = transfer;
    if (waiting === null) transfer.resolve(got);
    else waiting.then(() => transfer.resolve(got), transfer.reject);
  }
}

function wrongAnswer(head: ResponseHead, request: DirectGet): WrongAnswer | null {
  if (head.status === 200) return isWhole(request) ? null : 'ignoredRange';
  if (head.status !== 206) return null;
  const total = /\/(\d+)$/.exec(head.values('content-range')[0] ?? '')?.[1];
  return total !== undefined && Number(total) !== request.size ? 'length' : 'range';
}

function isWhole({ start, length, size }: DirectGet): boolean {
  return start === 0 && length === size;
}
