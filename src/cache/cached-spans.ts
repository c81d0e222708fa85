import { closeSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { encodeSpanTable, type SpanColumns } from '../archive/index.js';
import type { LayerIndex, SpanIndex } from '../bytes/index.js';
import { ClipError, crc32 } from '../bytes/index.js';
import { blockCheck, checkBlocks } from '../spans/index.js';
import { dataExtents } from './extents.js';
import { spanFileName } from './span-file-name.js';

/** A clipd may be writing the span at this moment: a wrong span is read again after this long. */
const SECOND_LOOK_MS = 300;

interface OpenFile {
  readonly fd: number;
  readonly table: SpanColumns;
  readonly digest: string;
}

/** The spans of an archive in a cache directory, read beside its owner. For `clipctl verify --from cache`. */
export class CachedSpans {
  readonly #files: readonly (OpenFile | null)[];

  constructor(directory: string, layers: readonly { readonly digest: string; readonly table: SpanColumns }[]) {
    this.#files = layers.map(({ digest, table }) => {
      const name = spanFileName(digest, encodeSpanTable(table));
      try {
        return { fd: openSync(join(directory, 'spans', name), 'r'), table, digest };
      } catch (cause) {
        if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return null;
        throw new ClipError('SYSTEM', `cache file ${name}: ${(cause as NodeJS.ErrnoException).code}`, { cause });
      }
    });
  }

  /**
   * The span's bytes, checked against the archive's CRC-32; null if they are not, or only in part, in the cache.
   * @throws ClipError DIGEST_MISMATCH naming layer and span
   */
  async read(layer: LayerIndex, span: SpanIndex): Promise<Uint8Array | null> {
    const file = this.#files[layer];
    if (!file) return null;
    const first = this.#look(file, span);
    if (first !== 'wrong') return first;
    await sleep(SECOND_LOOK_MS);
    const second = this.#look(file, span);
    if (second !== 'wrong') return second;
    throw new ClipError(
      'DIGEST_MISMATCH',
      `layer ${file.digest}, span ${span}: its bytes in the cache have another CRC-32`,
    );
  }

  #look({ fd, table }: OpenFile, span: SpanIndex): Uint8Array | null | 'wrong' {
    const [start, end] = [table.layerOffset[span]!, table.layerOffset[span + 1]!];
    // An evicted span is a hole, but for the blocks that it shares with neighbours, and zeros are holes, too: a span with a
    // hole is present if its CRC-32 is right.
    let data = false;
    let whole = false;
    dataExtents(
      fd,
      end,
      (from, to) => {
        data = true;
        whole = from <= start && to >= end;
      },
      start,
    );
    if (!data) return null;
    const bytes = new Uint8Array(end - start);
    for (let done = 0; done < bytes.length; ) {
      const n = readSync(fd, bytes, done, bytes.length - done, start + done);
      if (n === 0) return null; // cut off
      done += n;
    }
    const blocks = blockCheck(table, span);
    const right = blocks === null ? crc32(bytes) === table.crc32[span] : checkBlocks(bytes, blocks) === null;
    if (right) return bytes;
    return whole ? 'wrong' : null;
  }

  close(): void {
    for (const file of this.#files) if (file !== null) closeSync(file.fd);
  }
}
