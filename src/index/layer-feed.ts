import type { BlobTarget, ImageSource, LayerDescriptor } from '../oci/index.js';

/** Bytes of a layer that are fetched while the layer before it is read: its first request, redirects and handshakes cost no time then. */
const HEAD_BYTES = 2 * 1024 * 1024;
/**
 * After so many bytes over one connection it is known whether the decoder waits for the network: twice the slots of a lane, which the
 * first half fills.
 */
const WATCHED_BYTES = 16 * 1024 * 1024;
/** The decoder kept the network waiting for this share of the time: more connections would not help. */
const DECODER_BOUND = 0.2;
/** Bytes per second of one connection with which more of them are not tried: a link of 1 Gbit/s gives that to one alone. */
const FAST_CONNECTION = 100e6;
/** A range: large enough that a round trip is a small part of its time. */
const PIECE_BYTES = 4 * 1024 * 1024;
/** Ranges under way or waiting to be decoded, in all lanes: 32 MiB. */
const MAX_PIECES = 8;

/** The reading of a blob over one connection ended where parallel ranges take over. */
class Enough extends Error {}

interface Piece {
  readonly bytes: Uint8Array;
  readonly filled: Promise<void>;
}

/**
 * Brings the bytes of layers to the lanes of an index build. A layer comes over one connection, straight from the socket into a lane's
 * memory. If the decoder waits for that, because of a slow connection and not a slow link, or because of its round trips, the rest comes as
 * ranges side by side. Each of these is resumed by the source when it breaks.
 */
export class LayerFeed {
  readonly #source: ImageSource;
  readonly #signal: AbortSignal | undefined;
  readonly #pieces: number;
  readonly #heads = new Map<string, Promise<Uint8Array>>();
  /** A layer before was faster to decode than to fetch. */
  #networkBound = false;

  /** @param lanes that are fed at the same time */
  constructor(source: ImageSource, lanes: number, signal: AbortSignal | undefined) {
    this.#source = source;
    this.#signal = signal;
    this.#pieces = Math.max(2, Math.floor(MAX_PIECES / lanes));
  }

  /** Begins to fetch a layer that will be fed next. */
  prepare({ digest, size }: LayerDescriptor): void {
    if (!this.#source.remote || this.#heads.has(digest)) return;
    const head = this.#fetch(digest, size, new Uint8Array(Math.min(HEAD_BYTES, size)), 0, this.#signal);
    head.catch(() => {}); // told when it is fed
    this.#heads.set(digest, head);
  }

  async #fetch(
    digest: string,
    size: number,
    into: Uint8Array,
    start: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array> {
    await this.#source.fetchInto(digest, start, into, { size, signal });
    return into;
  }

  /** The whole layer, once. Rejects with what `target` rejects with, too. */
  async feed({ digest, size }: LayerDescriptor, target: BlobTarget): Promise<void> {
    const head = await this.#heads.get(digest);
    this.#heads.delete(digest);
    if (head !== undefined) await copy(head, target);
    const start = head?.length ?? 0;
    if (start === size && size > 0) return;
    const long = this.#source.remote && size - start > WATCHED_BYTES + PIECE_BYTES;
    if (!long) await this.#source.scanBlob(digest, size, target, { start, signal: this.#signal });
    else if (this.#networkBound) await this.#parallel(digest, size, start, target);
    else {
      const end = await this.#watched(digest, size, start, target);
      if (end < size) await this.#parallel(digest, size, end, target);
    }
  }

  /** Over one connection, to the end or to where it is found too slow. @returns where it ended */
  async #watched(digest: string, size: number, start: number, target: BlobTarget): Promise<number> {
    const stop = new AbortController();
    const signal = this.#signal === undefined ? stop.signal : AbortSignal.any([stop.signal, this.#signal]);
    const started = performance.now();
    let [at, waited] = [start, 0];
    let judged = false;
    const watch: BlobTarget = {
      room: () => target.room(),
      filled: (bytes) => {
        at += bytes;
        const waiting = target.filled(bytes);
        if (judged) return waiting;
        if (waiting !== null) {
          const from = performance.now();
          return waiting.then(() => {
            waited += performance.now() - from;
          });
        }
        if (at - start < WATCHED_BYTES) return null;
        judged = true;
        const elapsed = performance.now() - started;
        const rate = (1000 * (at - start)) / (elapsed - waited);
        if (waited > DECODER_BOUND * elapsed || rate >= FAST_CONNECTION) return null;
        this.#networkBound = true;
        stop.abort();
        return Promise.reject(new Enough());
      },
    };
    try {
      await this.#source.scanBlob(digest, size, watch, { start, signal });
      return size;
    } catch (error) {
      if (!stop.signal.aborted || this.#signal?.aborted) throw error;
      return at;
    }
  }

  /** In ranges, which are given to the target in order. */
  async #parallel(digest: string, size: number, start: number, target: BlobTarget): Promise<void> {
    const stop = new AbortController();
    const signal = this.#signal === undefined ? stop.signal : AbortSignal.any([stop.signal, this.#signal]);
    const pieces: Piece[] = [];
    const spare: Uint8Array[] = [];
    let next = start;
    const launch = (): void => {
      while (pieces.length < this.#pieces && next < size) {
        const memory = spare.pop() ?? new Uint8Array(PIECE_BYTES);
        const bytes = memory.subarray(0, Math.min(PIECE_BYTES, size - next));
        const filled = this.#fetch(digest, size, bytes, next, signal).then(() => {});
        filled.catch(() => {}); // told when it is its turn
        pieces.push({ bytes, filled });
        next += bytes.length;
      }
    };
    try {
      launch();
      for (let piece = pieces[0]; piece !== undefined; piece = pieces[0]) {
        await piece.filled;
        await copy(piece.bytes, target);
        pieces.shift();
        spare.push(new Uint8Array(piece.bytes.buffer));
        launch();
      }
    } finally {
      stop.abort();
      // Their memory is nobody else's until they have ended.
      await Promise.allSettled(pieces.map(({ filled }) => filled));
    }
  }
}

async function copy(bytes: Uint8Array, target: BlobTarget): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const room = target.room();
    const piece = bytes.subarray(at, at + room.length);
    room.set(piece);
    at += piece.length;
    const waiting = target.filled(piece.length);
    if (waiting !== null) await waiting;
  }
}
