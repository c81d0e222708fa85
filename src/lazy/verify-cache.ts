import type { SpanColumns } from '../archive/index.js';
import type { SpanIndex } from '../bytes/index.js';
import { type CachedLayer, Occupied, parseSpanFileName, type SpanCache, type VerifiedFile } from '../cache/index.js';
import { blockCheck } from '../spans/index.js';
import type { InflatePool } from './inflate-pool.js';
import { Priority } from './inflate-tasks.js';

/** Spans being checked at once for each thread: none waits for a message, and a reader waits for a small one at most. */
const CHECKS_PER_THREAD = 2;

export interface VerifyWatch {
  readonly onFile: (file: VerifiedFile) => void;
  readonly onDamaged: (layer: CachedLayer, span: SpanIndex) => void;
  /** Bytes of a span that was there. */
  readonly onChecked: (bytes: number) => void;
}

/**
 * Checks every span that the cache holds against its crc32, mounted or not, and frees what is wrong: what is read again is
 * then fetched again. Readers go first, and never see a damaged span that this has found.
 */
export async function verifySpans(
  cache: SpanCache,
  pool: InflatePool,
  watch: VerifyWatch,
  signal?: AbortSignal,
): Promise<void> {
  const { onFile } = watch;
  for (const name of cache.files()) {
    if (signal?.aborted) return;
    const file = parseSpanFileName(name)!;
    const columns = cache.tableOf(name);
    // Without its table it cannot be judged: it is checked when it is mounted.
    if (columns === null) onFile({ ...file, intact: 0, damaged: 0, absent: 0 });
    else onFile({ ...file, ...(await verifyLayer(cache, pool, file.layer, columns, watch, signal)) });
  }
}

async function verifyLayer(
  cache: SpanCache,
  pool: InflatePool,
  digest: string,
  table: SpanColumns,
  { onDamaged, onChecked }: VerifyWatch,
  signal: AbortSignal | undefined,
): Promise<{ intact: number; damaged: number; absent: number }> {
  const layer = cache.layer(digest, table);
  const counts = { intact: 0, damaged: 0, absent: 0 };
  try {
    let next = 0;
    const work = async (): Promise<void> => {
      for (let span = next++; span < table.count && !signal?.aborted; span = next++) {
        const found = await verifySpan(cache, pool, layer, table, span);
        counts[found]++;
        if (found !== 'absent') onChecked(layer.length(span));
        if (found === 'damaged') onDamaged(layer, span);
      }
    };
    await Promise.all(Array.from({ length: CHECKS_PER_THREAD * pool.size }, work));
    return counts;
  } finally {
    cache.release(layer);
  }
}

/** Checks a span and frees it when it is damaged. Its kernel pages are the caller's. */
export async function verifySpan(
  cache: SpanCache,
  pool: InflatePool,
  layer: CachedLayer,
  table: SpanColumns,
  span: SpanIndex,
): Promise<'intact' | 'damaged' | 'absent'> {
  const { fd, generations } = layer.shared;
  if (fd < 0 || layer.occupied[span] === Occupied.no) return 'absent';
  const present = layer.present(span);
  const position = table.layerOffset[span]!;
  const target = { fd, position, span, generations };
  let intact: boolean;
  layer.hold(span);
  try {
    const blocks = blockCheck(table, span);
    // A part of a long block cannot be judged alone.
    if (blocks !== null && blocks.part !== null) return 'absent';
    const crc32 = table.crc32[span] ?? 0;
    const task = { type: 'check', outLength: layer.length(span), crc32, blocks, target } as const;
    intact = (await pool.run(task, Priority.fill, cache)).status === 'stored';
  } finally {
    layer.unhold(span);
  }
  if (intact) {
    if (layer.takesRoom(span)) layer.occupy(span, Occupied.yes);
    return 'intact';
  }
  // Bytes that a worker is just writing are not there yet.
  if (!present && (layer.present(span) || !layer.evictable(span))) return 'absent';
  // From now on its readers fetch it; those who wait for it already, if there are any, hold it.
  layer.hide(span);
  cache.discard(layer, span);
  return 'damaged';
}
