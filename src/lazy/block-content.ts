import { createHash } from 'node:crypto';
import { read } from 'node:fs';
import { promisify } from 'node:util';
import type { SpanIndex } from '../bytes/index.js';
import { Crc64, lowerBound } from '../bytes/index.js';
import type { CachedLayer } from '../cache/index.js';
import { type BlockSums, blockCheck, type LayerSpans } from '../spans/index.js';
import { ContentCopy, type OwnLayer } from './content-copy.js';
import type { LayerContext } from './context.js';
import type { LayerProvider } from './types.js';

const readAsync = promisify(read);

/** Content goes to a content cache in chunks of this size: the Go program's. */
const CHUNK_BYTES = 32 * 1024 * 1024;
const READ_BYTES = 1024 * 1024;

/**
 * The files of a layer of data blocks in the content cache, under their content hashes, as the Go program keeps them. Files are
 * offered one after the other, once each, when their bytes are known to be right by their own checksum. A hash that the index claims
 * is checked before anything is stored under it or taken from there (docs/legacy.md, "What is checked").
 */
export class BlockContent {
  readonly #spans: LayerSpans;
  readonly #cached: CachedLayer;
  readonly #context: LayerContext;
  readonly #sums: BlockSums;
  readonly #offered = new Set<number>();
  /** Of long files; null: there was none, or it has ended. */
  readonly #copies = new Map<number, ContentCopy | null>();
  readonly #closing = new AbortController();
  #layer: OwnLayer | null = null;
  #queue: Promise<void> = Promise.resolve();

  constructor(spans: LayerSpans, cached: CachedLayer, sums: BlockSums, context: LayerContext) {
    this.#spans = spans;
    this.#cached = cached;
    this.#sums = sums;
    this.#context = context;
  }

  /** The layer that long files are copied for. Without it they are not looked up. */
  attach(layer: OwnLayer): void {
    this.#layer = layer;
  }

  /** Calls the copies off. */
  close(): void {
    this.#closing.abort();
  }

  /** Resolves when no copy is under way. */
  async drained(): Promise<void> {
    await Promise.all([...this.#copies.values()].map((copy) => copy?.ended));
  }

  /** A block, which spans [first, end) hold, is right. Resolves, never rejects, when it has been dealt with. */
  offer(block: number, first: number, end: number): Promise<void> | null {
    const { hash, length } = this.#spans.table.blocks!;
    const { content } = this.#context;
    const claimed = hash[block] ?? '';
    if (content === null || claimed === '' || this.#offered.has(block)) return null;
    this.#offered.add(block);
    if (!content.wants(claimed, Math.min(length[block]!, CHUNK_BYTES))) return null;
    for (let span = first; span < end; span++) this.#cached.hold(span);
    this.#queue = this.#queue
      .then(() => this.#store(block, first, end))
      .catch((error: unknown) => {
        this.#context.log.warn({ error: String(error) }, 'a file cannot be read for the content cache');
      })
      .finally(() => {
        for (let span = first; span < end; span++) this.#cached.unhold(span);
      });
    return this.#queue;
  }

  async #store(block: number, first: number, end: number): Promise<void> {
    const { hash, start, length } = this.#spans.table.blocks!;
    const { counters, content } = this.#context;
    for (let span = first; span < end; span++) if (!this.#cached.present(span)) return; // it was not kept
    const [from, bytes, claimed] = [start[block]!, length[block]!, hash[block]!];
    const sum = createHash('sha256');
    for (let done = 0; done < bytes; done += READ_BYTES) {
      sum.update(await this.#read(from + done, Math.min(READ_BYTES, bytes - done)));
    }
    if (sum.digest('hex') !== claimed) {
      counters.wrongHashes.add();
      return;
    }
    const chunks = async function* (this: BlockContent): AsyncIterable<Uint8Array> {
      for (let done = 0; done < bytes; done += CHUNK_BYTES) {
        yield await this.#read(from + done, Math.min(CHUNK_BYTES, bytes - done));
      }
    };
    // Another file of the same content may have been stored meanwhile.
    if (content?.wants(claimed, Math.min(bytes, CHUNK_BYTES)) !== true) return;
    await content.putStream(claimed, bytes, () => chunks.call(this), claimed);
  }

  async #read(position: number, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const { bytesRead } = await readAsync(this.#cached.shared.fd, bytes, done, length - done, position + done);
      if (bytesRead === 0) throw new Error('the file ends');
      done += bytesRead;
    }
    return bytes;
  }

  /**
   * A span that is one file, out of the content cache: its content, with the type and the checksum that stand around it in the
   * archive. Null: it is not there, or is something else. Only a content whose SHA-256 is the hash is taken. A part of a longer file comes
   * from a verified copy of it, which the first lookup starts to make.
   */
  async lookUp(
    span: SpanIndex,
    provider: LayerProvider,
    lookup: { readonly waiting: boolean; onUrgent(hurry: () => void): void },
  ): Promise<Uint8Array | null> {
    const { content } = this.#context;
    const { table } = this.#spans;
    const check = blockCheck(table, span);
    if (content === null || check === null) return null;
    if (check.part !== null) {
      const copy = this.#copyOf(span, provider);
      if (copy === null) return null;
      if (!copy.queued) await content.wait(copy.decided, copy.began, lookup);
      return copy.span(span);
    }
    if (check.whole.length !== 2) return null;
    const [at, length] = [check.whole[0]!, check.whole[1]!];
    const claimed = table.blocks!.hash[lowerBound(table.blocks!.start, this.#spans.start(span) + at)] ?? '';
    if (claimed === '') return null;
    const found = await content.get(claimed, length, claimed, lookup);
    if (found === null) return null;
    if (createHash('sha256').update(found).digest('hex') !== claimed) {
      content.poisoned(claimed);
      return null;
    }
    const bytes = new Uint8Array(this.#spans.length(span));
    bytes.set(found, at);
    new DataView(bytes.buffer).setBigUint64(at + length, new Crc64().update(found).digest(), false);
    return bytes;
  }

  /** Null: the span is not to be had by one. */
  #copyOf(span: SpanIndex, provider: LayerProvider): ContentCopy | null {
    const block = this.#sums.blockOf(span);
    const known = this.#copies.get(block);
    const { hash, start, length } = this.#spans.table.blocks!;
    const claimed = hash[block] ?? '';
    const { first, end } = this.#sums.spansOf(block, span);
    // The last one holds the archive's own checksum, by which the copy is checked.
    if (span === end - 1) return null;
    if (known !== undefined) return known;
    if (this.#layer === null || this.#cached.borrowed || claimed === '' || this.#closing.signal.aborted) return null;
    const copy = new ContentCopy(
      { first, end, start: start[block]!, length: length[block]!, hash: claimed },
      this.#cached,
      this.#context,
      this.#layer,
      provider,
      this.#closing.signal,
    );
    this.#copies.set(block, copy);
    void copy.ended.then((end) => {
      this.#copies.set(block, null);
      // It need not be stored, or must not be.
      if (end !== 'none') this.#offered.add(block);
    });
    return copy;
  }
}
