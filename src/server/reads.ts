import { setMaxListeners } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Nid } from '../bytes/index.js';
import { ClipError } from '../bytes/index.js';
import type { FileHint, LayerPiece } from '../lazy/index.js';
import { Errno, threadLives } from '../linux/index.js';
import type { Logger, Source } from '../metrics/index.js';
import { mayPass } from '../oci/index.js';
import type { ReadJournal } from '../wire/index.js';
import type { Caller } from './caller.js';

/** A piece of a file: bytes of a layer, or a hole (layer −1). */
export interface Piece extends LayerPiece {
  /** For read-ahead; absent where it is off. */
  readonly file: FileHint | undefined;
}

/** A read that was passed to this thread, and has its answer. Times are performance.now(). */
export interface EndedRead {
  readonly nid: Nid;
  readonly offset: number;
  /** Bytes that it got. */
  readonly length: number;
  /** The thread that asked; 0: not known. */
  readonly thread: number;
  readonly started: number;
  readonly ended: number;
  /** Of the bytes that it waited for longest; null: there were none to wait for. */
  readonly source: Source | null;
  /** The code of the error that it got, or a kind of end: `INTERRUPTED`, `TIMED_OUT`. */
  readonly error: string | null;
  /** The source of its bytes, if a trace runs. */
  readonly caller: Caller | null;
  /** Its last piece that is no hole. */
  readonly last: Piece | null;
}

/** The parts of a mount that a miss needs, and the receiver of its answer. */
export interface ReadSource {
  readonly readTimeoutMs: number;
  /** Where file bytes lie. @throws FormatError */
  map(nid: Nid, offset: number, size: number): Piece[];
  read(piece: Piece, signal: AbortSignal, onSource: (source: Source) => void): Promise<Uint8Array>;
  /** A read has asked for its bytes. The files that it leads to may be asked for now. */
  follow?(nid: Nid, pieces: readonly Piece[], thread: number): void;
  replyData(unique: bigint, pieces: Uint8Array[]): void;
  replyError(unique: bigint, errno: number): void;
  /** The process that a thread belongs to; null: no trace runs. Asked while it waits. */
  callerOf?(thread: number): Caller | null;
  /** Every read that ended, with its bytes or with an error. */
  onEnd?(read: EndedRead): void;
  /** Holds the unanswered reads for the next server; null if the kernel sends them again. */
  readonly journal?: Pick<ReadJournal, 'begin' | 'end'> | null;
}

/**
 * Reads of one mount that are fetched at once. The kernel asks for 128 KiB at a time unless its read-ahead was raised, so this many hold 64 MiB
 * of replies. Further reads wait as three numbers each, and the kernel bounds them (max_background, and one per blocked thread). The
 * limit is per mount, so that the reads of one dead registry do not block other mounts.
 */
export const MAX_READS = 512;

interface Pending {
  readonly unique: bigint;
  readonly nid: Nid;
  readonly offset: number;
  readonly size: number;
  /** The thread that reads; 0: not known. */
  readonly thread: number;
  readonly started: number;
  readonly abort: AbortController;
  timer: NodeJS.Timeout | null;
  answered: boolean;
  source: Source | null;
  readonly caller: Caller | null;
  last: Piece | null;
}

/** A read that timed out, and which of its pages the kernel has asked for again since. */
interface Expired {
  readonly nid: Nid;
  readonly offset: number;
  readonly end: number;
  readonly until: number;
  readonly repeated: Set<number>;
}

/**
 * If read-ahead fails, the kernel asks once more for the page that its reader waits for. This belongs to the same read(2), whose time
 * is over, and comes within a moment. A later request is another read, and tries again.
 */
const REPEAT_MS = 100;

/** How often the readers of slow reads are checked for being alive. */
const DEAD_POLL_MS = 1_000;

/** Pause between tries of a read whose registry is away: doubled from the first to the maximum. */
const FIRST_PAUSE_MS = 100;
const MAX_PAUSE_MS = 5_000;

export interface ReadCounters {
  reads: number;
  errors: number;
  interrupted: number;
  timedOut: number;
  /** Had to wait for one of MAX_READS. */
  queued: number;
  /** Given to readers. */
  bytes: number;
}

export function newReadCounters(): ReadCounters {
  return { reads: 0, errors: 0, interrupted: 0, timedOut: 0, queued: 0, bytes: 0 };
}

/**
 * The reads of a mount that FUSE workers could not answer. Each ends in exactly one reply: its bytes, EINTR if its reader was
 * interrupted, or EIO after the read timeout or if no source has the bytes (docs/architecture.md, "Invariant 5").
 */
export class Reads {
  readonly counters = newReadCounters();
  readonly #source: ReadSource;
  readonly #log: Logger;
  readonly #pending = new Map<bigint, Pending>();
  readonly #waiting: Pending[] = [];
  #expired: Expired[] = [];
  #running = 0;
  #watch: NodeJS.Timeout | null = null;
  /** When each cause was last logged. Otherwise a dead registry would write a line per read. */
  readonly #logged = new Map<string, number>();

  constructor(source: ReadSource, log: Logger) {
    this.#source = source;
    this.#log = log;
  }

  get inFlight(): number {
    return this.#pending.size;
  }

  start(unique: bigint, nid: Nid, offset: number, size: number, thread = 0): void {
    if (this.#expired.length > 0 && this.#repeats(nid, offset, size)) {
      this.counters.reads++;
      this.#source.replyError(unique, Errno.EIO);
      return;
    }
    const abort = new AbortController();
    // One listener per extent of the file, of which a read may touch hundreds.
    setMaxListeners(0, abort.signal);
    const started = performance.now();
    const caller = this.#source.callerOf?.(thread) ?? null;
    const pending: Pending = {
      unique,
      nid,
      offset,
      size,
      thread,
      started,
      abort,
      timer: null,
      answered: false,
      source: null,
      caller,
      last: null,
    };
    this.#pending.set(unique, pending);
    this.#source.journal?.begin({ unique, nid, offset, size });
    this.counters.reads++;
    pending.timer = setTimeout(() => this.#timeOut(pending), this.#source.readTimeoutMs);
    this.#watch ??= setInterval(() => this.#dropDead(), DEAD_POLL_MS).unref();
    if (this.#running < MAX_READS) void this.#run(pending);
    else {
      this.counters.queued++;
      this.#waiting.push(pending);
    }
  }

  /**
   * The reader of this request got a signal: it is answered at once, and its fetch given up unless others wait for it.
   * @returns false when no such read is pending
   */
  interrupt(unique: bigint): boolean {
    const pending = this.#pending.get(unique);
    if (pending === undefined) return false;
    this.counters.interrupted++;
    this.#fail(pending, Errno.EINTR, 'INTERRUPTED');
    return true;
  }

  /** No answer is needed any more: the mount has ended, or another server is asked again. */
  abandon(): void {
    for (const pending of [...this.#pending.values()]) {
      this.#forget(pending);
      pending.abort.abort();
    }
    this.#waiting.length = 0;
    this.#dropDead();
  }

  /** Resolves when no fetch is running, which after `abandon` is at once or nearly so. */
  async stopped(): Promise<void> {
    while (this.#running > 0) await new Promise((resolve) => setTimeout(resolve, 1));
  }

  /** Resolves when nothing is under way, or after `milliseconds`. */
  async idle(milliseconds: number): Promise<void> {
    const end = performance.now() + milliseconds;
    while (this.#pending.size > 0 && performance.now() < end) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  #repeats(nid: Nid, offset: number, size: number): boolean {
    const now = performance.now();
    this.#expired = this.#expired.filter((read) => read.until > now);
    const read = this.#expired.find(
      (read) => read.nid === nid && offset >= read.offset && offset + size <= read.end && !read.repeated.has(offset),
    );
    read?.repeated.add(offset);
    return read !== undefined;
  }

  /**
   * Ends the reads whose reader is gone. The kernel sends no INTERRUPT for them: a reader waits for pages, and the requests
   * that fill the page cache belong to no process. Another process that waits for the same page asks for it again.
   */
  #dropDead(): void {
    const before = performance.now() - DEAD_POLL_MS;
    for (const pending of [...this.#pending.values()]) {
      if (pending.thread === 0 || pending.started > before || threadLives(pending.thread)) continue;
      this.counters.interrupted++;
      this.#fail(pending, Errno.EINTR, 'INTERRUPTED');
    }
    if (this.#pending.size > 0 || this.#watch === null) return;
    clearInterval(this.#watch);
    this.#watch = null;
  }

  #timeOut(pending: Pending): void {
    this.counters.timedOut++;
    const { nid, offset, size } = pending;
    this.#expired.push({ nid, offset, end: offset + size, until: performance.now() + REPEAT_MS, repeated: new Set() });
    this.#logOnce('a read timed out', '', { nid: pending.nid, seconds: this.#source.readTimeoutMs / 1000 });
    this.#fail(pending, Errno.EIO, 'TIMED_OUT');
  }

  #fail(pending: Pending, errno: number, error: string): void {
    if (pending.answered) return;
    this.#settle(pending);
    this.#tell(pending, 0, error);
    this.#source.replyError(pending.unique, errno);
    pending.abort.abort();
  }

  #tell({ nid, offset, thread, started, source, caller, last }: Pending, length: number, error: string | null): void {
    const ended = performance.now();
    this.#source.onEnd?.({ nid, offset, length, thread, started, ended, source, error, caller, last });
  }

  #settle(pending: Pending): void {
    this.#forget(pending);
    this.#source.journal?.end(pending.unique);
  }

  #forget(pending: Pending): void {
    pending.answered = true;
    if (pending.timer !== null) clearTimeout(pending.timer);
    this.#pending.delete(pending.unique);
  }

  async #run(pending: Pending): Promise<void> {
    this.#running++;
    const source = this.#source;
    try {
      const pieces = source.map(pending.nid, pending.offset, pending.size);
      pending.last = pieces.findLast(({ layer }) => layer >= 0) ?? null;
      const reads = pieces.map((piece) => (piece.layer < 0 ? zeros(piece.length) : this.#bytes(piece, pending)));
      source.follow?.(pending.nid, pieces, pending.thread);
      const parts = await Promise.all(reads);
      if (!pending.answered) {
        this.#settle(pending);
        source.replyData(pending.unique, parts);
        let length = 0;
        for (const part of parts) length += part.length;
        this.counters.bytes += length;
        this.#tell(pending, length, null);
      }
    } catch (error) {
      if (!pending.answered) {
        this.counters.errors++;
        const cause = error instanceof ClipError ? { code: error.code, error: error.message } : { err: error };
        this.#logOnce('a read failed', String(error), { nid: pending.nid, ...cause });
        this.#fail(pending, Errno.EIO, error instanceof ClipError ? error.code : 'OTHER');
      }
    } finally {
      this.#running--;
      this.#next();
    }
  }

  /** The archive exists, so there was a registry. While it cannot be reached a read waits, up to the read timeout. */
  async #bytes(piece: Piece, pending: Pending): Promise<Uint8Array> {
    const { nid, abort } = pending;
    const onSource = (source: Source): void => {
      pending.source = source;
    };
    for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(2 * pause, MAX_PAUSE_MS)) {
      try {
        return await this.#source.read(piece, abort.signal, onSource);
      } catch (error) {
        if (!mayPass(error)) throw error;
        this.#logOnce('a read waits for its registry', String(error), { nid, error: String(error) });
      }
      await sleep(pause, undefined, { signal: abort.signal });
    }
  }

  #next(): void {
    for (;;) {
      const pending = this.#waiting.shift();
      if (pending === undefined) return;
      if (pending.answered) continue;
      void this.#run(pending);
      return;
    }
  }

  #logOnce(message: string, cause: string, fields: Record<string, unknown>): void {
    const key = `${message} ${cause}`;
    const now = performance.now();
    const last = this.#logged.get(key);
    if (last !== undefined && now - last < LOG_INTERVAL_MS) return;
    if (this.#logged.size >= MAX_LOGGED) this.#logged.clear();
    this.#logged.set(key, now);
    this.#log.error(fields, message);
  }
}

/** The same cause is logged once in this time. */
const LOG_INTERVAL_MS = 60_000;
/** Causes remembered; beyond it all are forgotten and logged again. */
const MAX_LOGGED = 256;

/** The kernel never asks for more than this in one read. */
const ZEROS = new Uint8Array(128 * 1024);

function zeros(length: number): Uint8Array {
  return length <= ZEROS.length ? ZEROS.subarray(0, length) : new Uint8Array(length);
}
