import { availableParallelism } from 'node:os';
import type { LayerContents } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import type { ImageSource, LayerDescriptor } from '../oci/index.js';
import { EntryColumns } from '../tar/index.js';
import { digestText, Lane } from './lane.js';
import type { FileDigests } from './messages.js';

/**
 * Layers indexed at once. Each has two threads and 8 MiB of slots, some 40 MB together: four keep the whole below the
 * 300 MB that indexing may take.
 */
const MAX_LANES = 4;

export interface LayerProgress {
  readonly digest: string;
  /** Compressed bytes that are decoded and hashed, and all there are. */
  readonly done: number;
  readonly total: number;
  /** Bytes per second since the layer's first byte. */
  readonly rate: number;
}

export interface IndexedLayer {
  readonly contents: LayerContents;
  readonly entries: EntryColumns;
  readonly uncompressedSize: number;
  readonly files: FileDigests | null;
}

export interface LayerIndexing {
  readonly spanBytes: number;
  /** Offsets at which to cut a layer in place of every `spanBytes`, by digest. */
  readonly cuts: ReadonlyMap<string, Float64Array> | undefined;
  readonly hashes: boolean;
  readonly signal: AbortSignal | undefined;
  readonly onProgress: ((progress: LayerProgress) => void) | undefined;
  readonly onWarning: (warning: string) => void;
}

/** Reads one layer through a lane and checks its digests. */
async function indexLayer(
  lane: Lane,
  source: ImageSource,
  layer: LayerDescriptor,
  options: LayerIndexing,
): Promise<IndexedLayer> {
  const { digest, size } = layer;
  const { signal, onProgress, hashes } = options;
  const started = performance.now();
  let done = 0;
  const report = (bytes: number): void => {
    done += bytes;
    const seconds = (performance.now() - started) / 1000;
    onProgress?.({ digest, done, total: size, rate: seconds > 0 ? done / seconds : 0 });
  };
  report(0);
  const blob = source.scanBlob(digest, size, { signal });
  const cuts = options.cuts?.get(digest) ?? null;
  const job = { type: 'layer', digest, spanBytes: options.spanBytes, cuts, hashes } as const;
  const { decoded, digests } = await lane.index(job, blob, report);

  const found = digestText(digests.blobSha256);
  if (found !== digest) {
    throw new ClipError('DIGEST_MISMATCH', `layer ${digest}: the bytes that came have digest ${found}`, {
      hint: 'the registry, a proxy or the disk altered the layer: push it again, or index from another source',
    });
  }
  if (decoded.diffSha256 !== null && layer.diffId.startsWith('sha256:')) {
    const diffId = digestText(decoded.diffSha256);
    if (diffId !== layer.diffId) {
      throw new ClipError(
        'DIGEST_MISMATCH',
        `layer ${digest}: its tar has digest ${diffId}, but the config says ${layer.diffId}`,
        {
          hint: 'the image was put together wrongly: build and push it again',
        },
      );
    }
  }
  for (const warning of decoded.warnings) options.onWarning(`layer ${digest}: ${warning}`);
  const { kind, layerOffset, bitOffset, crc32 } = decoded.spans;
  const count = crc32.length;
  if (layerOffset.length !== count + 1 || digests.spanSha256.length !== 32 * count) {
    throw new Error(
      `layer ${digest}: ${layerOffset.length} boundaries, ${count} sums, ${digests.spanSha256.length} digest bytes`,
    );
  }
  // Span 0 starts the layer and needs no state; what follows one per checkpoint is for a boundary at the very end.
  const states = Array.from({ length: count }, (_, i) => digests.states[i - 1] ?? new Uint8Array(0));
  return {
    contents: { spans: { kind, count, layerOffset, bitOffset, crc32, sha256: digests.spanSha256 }, states },
    entries: EntryColumns.fromTransfer(decoded.entries),
    uncompressedSize: layerOffset[count]!,
    files: decoded.files,
  };
}

/**
 * Indexes the distinct ones of `layers` side by side, the largest first, as many at once as there are cores. Gives them by
 * digest, as they come, to `onLayer`. `lanes` grows; closing them, after a failure too, is the caller's.
 */
export async function indexLayers(
  lanes: Lane[],
  source: ImageSource,
  layers: readonly LayerDescriptor[],
  options: LayerIndexing,
  onLayer: (digest: string, layer: IndexedLayer) => void,
): Promise<void> {
  const distinct = [...new Map(layers.map((layer) => [layer.digest, layer])).values()];
  const waiting = distinct.sort((a, b) => b.size - a.size);
  const wanted = Math.min(waiting.length, MAX_LANES, availableParallelism());
  while (lanes.length < wanted) lanes.push(new Lane());
  const work = lanes.slice(0, wanted).map(async (lane) => {
    for (let layer = waiting.shift(); layer !== undefined; layer = waiting.shift()) {
      options.signal?.throwIfAborted();
      onLayer(layer.digest, await indexLayer(lane, source, layer, options));
    }
  });
  await Promise.all(work);
}
