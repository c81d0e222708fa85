import type { Socket } from 'node:net';
import { FormatError } from '../bytes/index.js';
import type { Reach } from './addresses.js';
import { type BlobRange, boundaryOf, MAX_PART_HEAD_BYTES, PartsReader, rangeHeader } from './byte-ranges.js';
import { CONNECT_TIMEOUT_MS, type Network, readyEvent } from './network.js';
import { HEAD_END, ResponseHead, requestHead } from './response-head.js';
import type { BlobTarget } from './source.js';
import { StallTimer } from './stall.js';
import { Turns } from './turns.js';
import type { WrongAnswer } from './wrong-answers.js';

/** A response's head and what comes with it of the body, which is copied. The rest goes where it belongs at once. */
const HEAD_BYTES = 8 * 1024;
const IDENTITY = { 'accept-encoding': 'identity' };

/** A GET whose answer is known but for its bytes: ranges of a blob, or all of it. */
export interface DirectGet {
  readonly url: URL;
  readonly reach: Reach;
  readonly headers: Readonly<Record<string, string>>;
  /** At least one. Their bytes go to the target one after the other. */
  readonly ranges: readonly BlobRange[];
  /** Of the blob. A request for all of it has no Range header. */
  readonly size: number;
  readonly target: BlobTarget;
  readonly signal?: AbortSignal | undefined;
  /** The request is on its way: the connection is open. */
  readonly onSent?: (() => void) | undefined;
}

export interface DirectGot {
  /** Bytes, from the start on, that the target has and that are what the server says they are. */
  readonly received: number;
  /** False: the server succeeds, but its answer to a range is not that range; or it does not answer several ranges. */
  readonly fit: boolean;
  /** How its success differs from what was asked for; null if it does not, or in form only. */
  readonly wrong: WrongAnswer | null;
  /** What was answered to a request for several ranges in place of them; null if they came, or may come another time. */
  readonly refusal: string | null;
}

const NOTHING: DirectGot = { received: 0, fit: true, wrong: null, refusal: null };
/** Statuses by which servers refuse several ranges that they would give one by one. */
const REFUSING = new Set([400, 416, 501]);

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
 * It knows one answer: 206 with exactly the range, or with exactly the ranges as parts (RFC 9110 §14.6), or 200 with exactly the blob.
 * At anything else (a login, a redirect, an error, a lost connection) it gives up, and the caller goes on with a client that knows what to do.
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
      if (this.#closed || request.signal?.aborted) return NOTHING;
      const connection = origin.idle.pop() ?? this.#connect(request, origin);
      if (connection === null) return NOTHING;
      const { reused } = connection;
      const got = await connection.run(request).catch((error: unknown) => {
        connection.destroy();
        throw error;
      });
      if (connection.usable && !this.#closed) origin.idle.push(connection);
      else connection.destroy();
      // The server closed an idle connection while the request was on its way: another connection may be fine.
      if (got === null && reused) continue;
      return got ?? NOTHING;
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
  /** Of all ranges. */
  readonly length: number;
  received: number;
  /** Bytes of the body that are still to come. */
  left: number;
  /** Of an answer in parts. */
  parts: PartsReader | null;
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
    const { url, headers, ranges, size, signal, onSent } = request;
    return new Promise((resolve, reject) => {
      const abort = (): void => this.destroy();
      this.#transfer = {
        request,
        length: ranges.reduce((sum, { length }) => sum + length, 0),
        received: 0,
        left: 0,
        parts: null,
        inBody: false,
        keepAlive: false,
        waiting: null,
        resolve,
        reject,
        release: () => signal?.removeEventListener('abort', abort),
      };
      signal?.addEventListener('abort', abort, { once: true });
      const range = isWhole(request) ? {} : { range: rangeHeader(ranges) };
      const head = size === 0 ? null : requestHead(url, { ...IDENTITY, ...headers, ...range });
      if (head === null || !this.usable) {
        this.#settle();
        return;
      }
      this.socket.ref();
      if (this.#ready) this.socket.setTimeout(this.#options.headMs);
      this.socket.write(head, 'latin1', onSent && (() => onSent()));
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
    const { parts, left } = transfer;
    if (parts?.left === 0) return this.#head.subarray(0, left);
    const room = transfer.request.target.room();
    return room.subarray(0, Math.min(left, parts?.left ?? left));
  }

  /** False: read no more for now. */
  #onRead(length: number): boolean {
    const transfer = this.#transfer;
    if (transfer === null) {
      this.destroy(); // an answer to no request
      return false;
    }
    if (transfer.inBody) {
      const between = transfer.parts?.left === 0;
      return between ? this.#copy(transfer, this.#head.subarray(0, length)) : this.#progress(transfer, length);
    }
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
    const { request } = transfer;
    const head = new ResponseHead(this.#head.toString('latin1', 0, end));
    const several = request.ranges.length > 1;
    const exact = !several && isExact(head, request);
    const length = several
      ? partsLength(head, transfer)
      : exact && head.isPlain(transfer.length)
        ? transfer.length
        : null;
    if (length === null || this.#headLength - end - HEAD_END.length > length) {
      // A refusal, a redirect or an error may pass. Another kind of success stays.
      this.#headLength = 0;
      const refused = several && REFUSING.has(head.status);
      const fit = !refused && (head.status < 200 || head.status >= 300);
      const wrong = fit || several || exact ? null : wrongAnswer(head, request);
      this.#finish({ ...NOTHING, fit, wrong, refusal: fit || !several ? null : describe(head) });
      return false;
    }
    if (several) {
      const what = `the answer of ${request.url.origin}${request.url.pathname}`;
      const [type = ''] = head.values('content-type');
      transfer.parts = new PartsReader(what, boundaryOf(type)!, request.ranges, request.size);
    }
    transfer.inBody = true;
    transfer.left = length;
    transfer.keepAlive = head.keepsAlive;
    this.socket.setTimeout(0);
    this.#stall.start();
    return true;
  }

  /** Of the body, what came with the head, or between parts. False: read no more for now. */
  #copy(transfer: Transfer, bytes: Uint8Array): boolean {
    const { parts } = transfer;
    for (let rest = bytes; rest.length > 0; ) {
      if (transfer.waiting !== null) {
        // The target has no room yet, and the head's buffer is used again.
        const kept = rest.slice();
        const go = (): void => {
          if (this.#transfer === transfer && !this.#copy(transfer, kept)) this.socket.pause();
        };
        transfer.waiting.then(go, () => {});
        return false;
      }
      if (parts?.left === 0) {
        const taken = this.#between(transfer, parts, rest);
        if (taken < 0) return false;
        rest = rest.subarray(taken);
        continue;
      }
      const room = transfer.request.target.room();
      const piece = rest.subarray(0, Math.min(room.length, parts?.left ?? room.length));
      room.set(piece);
      rest = rest.subarray(piece.length);
      this.#progress(transfer, piece.length);
    }
    return this.#transfer !== transfer || transfer.waiting === null;
  }

  /** How many of the bytes stand between two parts' data. Negative: they are not what should stand there, and the connection is given up. */
  #between(transfer: Transfer, parts: PartsReader, bytes: Uint8Array): number {
    let taken: number;
    try {
      taken = parts.between(bytes);
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      this.#headLength = 0;
      this.#finish({ received: transfer.received, fit: false, wrong: null, refusal: error.message });
      this.destroy();
      return -1;
    }
    transfer.left -= taken;
    this.#stall.received(taken);
    if (transfer.left === 0) this.#end(transfer);
    return taken;
  }

  #progress(transfer: Transfer, bytes: number): boolean {
    transfer.received += bytes;
    transfer.left -= bytes;
    transfer.parts?.took(bytes);
    this.#stall.received(bytes);
    const waiting = transfer.request.target.filled(bytes);
    transfer.waiting = waiting;
    if (transfer.left === 0) {
      this.#end(transfer);
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

  /** The whole body has come. */
  #end(transfer: Transfer): void {
    const { received, length, parts } = transfer;
    this.#stall.stop();
    if (transfer.keepAlive) {
      this.socket.setTimeout(this.#options.keepAliveMs);
      this.wait();
    } else this.#usable = false;
    this.#headLength = 0;
    const fit = received === length && parts?.ended !== false;
    const refusal = fit
      ? null
      : `an answer in parts that ends after ${received} of ${length} bytes, or without its last delimiter`;
    this.#finish({ received, fit, wrong: null, refusal });
  }

  #settle(): void {
    const transfer = this.#transfer;
    if (transfer === null) return;
    const answered = transfer.inBody || this.#headLength > 0;
    this.#finish(answered ? { ...NOTHING, received: transfer.received } : null);
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

/** One range, or all of the blob, as it was asked for, as far as status and range say. */
function isExact(head: ResponseHead, request: DirectGet): boolean {
  const [{ start, length } = { start: 0, length: 0 }] = request.ranges;
  if (isWhole(request)) return head.status === 200;
  const ranges = head.values('content-range');
  const range = `bytes ${start}-${start + length - 1}/`;
  return (
    head.status === 206 && ranges.length === 1 && (ranges[0] === `${range}${request.size}` || ranges[0] === `${range}*`)
  );
}

/** The length of an answer in parts; null if it is none, or longer than its parts can be. */
function partsLength(head: ResponseHead, { request, length }: Transfer): number | null {
  const types = head.values('content-type');
  if (head.status !== 206 || types.length !== 1 || boundaryOf(types[0]!) === null) return null;
  const most = length + (request.ranges.length + 1) * MAX_PART_HEAD_BYTES;
  const stated = head.plainLength;
  return stated !== null && stated <= most ? stated : null;
}

function describe(head: ResponseHead): string {
  const type = head.values('content-type').join(', ').slice(0, 60);
  return `status ${head.status}, Content-Type "${type}", Content-Length ${head.plainLength}: parts were asked for`;
}

function wrongAnswer(head: ResponseHead, request: DirectGet): WrongAnswer | null {
  if (head.status === 200) return isWhole(request) ? null : 'ignoredRange';
  if (head.status !== 206) return null;
  const total = /\/(\d+)$/.exec(head.values('content-range')[0] ?? '')?.[1];
  return total !== undefined && Number(total) !== request.size ? 'length' : 'range';
}

function isWhole({ ranges, size }: DirectGet): boolean {
  return ranges.length === 1 && ranges[0]!.start === 0 && ranges[0]!.length === size;
}
