import { createHash } from 'node:crypto';
import { read, write } from 'node:fs';
import { promisify } from 'node:util';
import type { SpanIndex } from '../bytes/index.js';
import { Crc64 } from '../bytes/index.js';
import type { CachedLayer, ScratchFile } from '../cache/index.js';
import type { LayerContext } from './context.js';
import { Priority } from './inflate-tasks.js';
import type { SpanResult } from './job.js';
import type { LayerProvider } from './types.js';

const readAsync = promisify(read);
const writeAsync = promisify(write);

/** What is asked for at once: a whole value of a Redis cache. */
const STRETCH_BYTES = 8 * 1024 * 1024;
/** Stretches that are on their way at once, or wait in memory to be hashed in their order. */
const STRETCHES = 4;
/** Summed at once. Other work of the thread goes between. */
const SUM_BYTES = 1024 * 1024;
/** Spans that are put into the disk cache at once. */
const MOVES = 4;

/** A data block that several spans hold: [first, end). Its last span holds its checksum. */
export interface LongBlock {
  readonly first: number;
  readonly end: number;
  /** Of its content, in the layer. */
  readonly start: number;
  readonly length: number;
  /** The SHA-256 that the index claims. */
  readonly hash: string;
}

/** The layer that a copy belongs to. */
export interface OwnLayer {
  read(provider: LayerProvider, offset: number, length: number): Promise<Uint8Array>;
  ahead(provider: LayerProvider, span: SpanIndex, priority: Exclude<Priority, 0>): Promise<SpanResult> | null;
}

/** What became of a copy. `same`: it is the archive's content, and the content cache has it. */
export type CopyEnd = 'same' | 'other' | 'none';

/**
 * The copy of a long file out of the content cache, made beside the reads of its pieces. Nothing of it is served before all of it has come, has
 * the SHA-256 that the index claims, and has the checksum that stands behind the file in the archive: so a reader never gets pieces of
 * two contents (docs/legacy.md, "Content caches").
 */
export class ContentCopy {
  readonly began = performance.now();
  /** Whether others were before it, for which its readers do not wait. */
  readonly queued: boolean;
  /** The copy may be used, or will not come. Never rejects. */
  readonly decided: Promise<void>;
  /** Its file is closed. Never rejects. */
  readonly ended: Promise<CopyEnd>;
  #decide!: () => void;
  #verified: ScratchFile | null = null;
  #reads = 0;
  #idle: () => void = () => {};

  constructor(
    readonly block: LongBlock,
    private readonly cached: CachedLayer,
    private readonly context: LayerContext,
    private readonly layer: OwnLayer,
    private readonly provider: LayerProvider,
    private readonly signal: AbortSignal,
  ) {
    this.decided = new Promise((resolve) => {
      this.#decide = resolve;
    });
    let end: CopyEnd = 'none';
    const turn = context.content!.inTurn(async () => {
      try {
        end = await this.#make();
      } catch (error) {
        if (!signal.aborted) context.log.warn({ error: String(error) }, 'a file of the content cache cannot be copied');
      } finally {
        this.#decide();
      }
    });
    this.queued = !turn.atOnce;
    this.ended = turn.ended.then(() => end);
  }

  /** A span out of the verified copy; null: there is none. */
  async span(span: SpanIndex): Promise<Uint8Array | null> {
    const file = this.#verified;
    const { start, first, end } = this.block;
    if (file === null || span === end - 1) return null;
    const from = this.cached.shared.offsets[span]!;
    const bytes = new Uint8Array(this.cached.length(span)); // the block's type, a zero, is before its content
    const at = span === first ? start - from : 0;
    this.#reads++;
    try {
      const { bytesRead } = await readAsync(file.fd, bytes, at, bytes.length - at, from + at - start);
      return bytesRead === bytes.length - at ? bytes : null;
    } catch {
      return null; // the disk: the archive's own source has it
    } finally {
      if (--this.#reads === 0) this.#idle();
    }
  }

  async #make(): Promise<CopyEnd> {
    const { content, cache, counters, log } = this.context;
    const { hash, start, length } = this.block;
    const begin = await this.#stretch(0);
    if (begin === null || this.#over) return 'none';
    const file = cache.scratch(length);
    if (file === null) return 'none';
    try {
      const own = this.layer.read(this.provider, start + length, 8); // the checksum, from the archive's own source
      own.catch(() => {});
      const sums = await this.#copy(file, begin);
      if (sums === null) return 'none';
      if (sums.sha256 !== hash) {
        content!.poisoned(hash);
        return 'none';
      }
      const stored = await own;
      if (new DataView(stored.buffer, stored.byteOffset, 8).getBigUint64(0, false) !== sums.crc64) {
        counters.wrongHashes.add();
        log.warn({ hash }, 'the content hash of a file in an archive is that of another content: not used');
        return 'other';
      }
      this.#verified = file;
      this.#decide();
      await this.#move();
      return 'same';
    } finally {
      this.#verified = null;
      if (this.#reads > 0) await new Promise<void>((resolve) => (this.#idle = resolve));
      file.close();
    }
  }

  /** The layer is being closed, or readers have fetched everything meanwhile. */
  get #over(): boolean {
    const { first, end } = this.block;
    if (this.signal.aborted) return true;
    for (let span = first; span < end; span++) if (!this.cached.present(span)) return false;
    return true;
  }

  #stretch(at: number): Promise<Uint8Array | null> {
    const { hash, length } = this.block;
    return this.context.content!.getStretch(hash, at, Math.min(STRETCH_BYTES, length - at), hash);
  }

  /** @returns null: a part of it is missing, or no longer wanted */
  async #copy(file: ScratchFile, begin: Uint8Array): Promise<{ sha256: string; crc64: bigint } | null> {
    const { length } = this.block;
    const [sha256, crc64] = [createHash('sha256'), new Crc64()];
    const coming: Promise<Uint8Array | null>[] = [Promise.resolve(begin)];
    let next = STRETCH_BYTES;
    for (let at = 0; at < length; ) {
      for (; coming.length < STRETCHES && next < length; next += STRETCH_BYTES) coming.push(this.#stretch(next));
      const bytes = await coming.shift()!;
      if (bytes === null || this.#over) return null;
      for (let done = 0; done < bytes.length; ) {
        const part = bytes.subarray(done, done + SUM_BYTES);
        sha256.update(part);
        crc64.update(part);
        for (let put = 0; put < part.length; ) {
          put += (await writeAsync(file.fd, part, put, part.length - put, at + done + put)).bytesWritten;
        }
        done += part.length;
      }
      at += bytes.length;
    }
    return { sha256: sha256.digest('hex'), crc64: crc64.digest() };
  }

  /** Puts what is missing into the disk cache. */
  async #move(): Promise<void> {
    let next = this.block.first;
    const mover = async (): Promise<void> => {
      while (next < this.block.end - 1 && !this.signal.aborted) {
        // One that the disk does not take is fetched by its readers.
        await this.layer.ahead(this.provider, next++, Priority.fill)?.catch(() => {});
      }
    };
    await Promise.all(Array.from({ length: MOVES }, mover));
  }
}
