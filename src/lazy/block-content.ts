import { createHash } from 'node:crypto';
import { read } from 'node:fs';
import { promisify } from 'node:util';
import type { SpanIndex } from '../bytes/index.js';
import { Crc64, lowerBound } from '../bytes/index.js';
import type { CachedLayer } from '../cache/index.js';
import { blockCheck, type LayerSpans } from '../spans/index.js';
import type { LayerContext } from './context.js';

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
  readonly #offered = new Set<number>();
  #queue: Promise<void> = Promise.resolve();

  constructor(spans: LayerSpans, cached: CachedLayer, context: LayerContext) {
    this.#spans = spans;
    this.#cached = cached;
    this.#context = context;
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
   * archive. Null: it is not there, or is something else. Only a content whose SHA-256 is the hash is taken.
   */
  async lookUp(
    span: SpanIndex,
    lookup: { readonly waiting: boolean; onUrgent(hurry: () => void): void },
  ): Promise<Uint8Array | null> {
    const { content } = this.#context;
    const { table } = this.#spans;
    const check = blockCheck(table, span);
    if (content === null || check === null || check.part !== null || check.whole.length !== 2) return null;
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
}
