import { availableParallelism } from 'node:os';
import { spanFault } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import { type BlobTarget, type ImageSource, isForeignLayer, type LayerDescriptor } from '../oci/index.js';
import { EntryColumns } from '../tar/index.js';
import type { IndexedLayer } from './indexed-layer.js';
import { digestText, Lane, type LaneResult } from './lane.js';
import { LayerFeed } from './layer-feed.js';
import type { IndexProgress } from './progress.js';

/**
 * Layers indexed at once. Each has two threads and 12 MiB of buffers, some 45 MB together: four keep the whole below the
 * 300 MB that indexing may take.
 */
const MAX_LANES = 4;
/** Decoding and digesting a layer keep about one core each busy: more lanes would only share them. */
const CORES_PER_LANE = 2;

export interface LayerIndexing {
  readonly spanBytes: number;
  /** By digest: offsets at which to cut a layer, instead of every `spanBytes`. */
  readonly cuts: ReadonlyMap<string, Float64Array> | undefined;
  readonly hashes: boolean;
  readonly signal: AbortSignal | undefined;
  readonly progress: IndexProgress;
}

/** Reads a layer's blob. A foreign layer is read like any other if the registry has it. */
async function scan(feed: LayerFeed, layer: LayerDescriptor, target: BlobTarget): Promise<void> {
  const { digest, mediaType } = layer;
  try {
    await feed.feed(layer, target);
  } catch (error) {
    if (!(error instanceof ClipError) || error.code !== 'NOT_FOUND' || !isForeignLayer(mediaType)) throw error;
    throw new ClipError('NOT_FOUND', `layer ${digest} is foreign (${mediaType}) and not stored with the image`, {
      cause: error,
      hint: 'push the image with all layers of its base (Docker: allow-nondistributable-artifacts)',
    });
  }
}

/** Sends one layer through a lane. `fed` is that of Lane.index. */
function indexLayer(
  lane: Lane,
  feed: LayerFeed,
  layer: LayerDescriptor,
  options: LayerIndexing,
): { fed: Promise<void>; indexed: Promise<IndexedLayer> } {
  const { digest, size } = layer;
  const { hashes } = options;
  const report = options.progress.layer(layer);
  const cuts = options.cuts?.get(digest) ?? null;
  const job = { type: 'layer', digest, blobBytes: size, spanBytes: options.spanBytes, cuts, hashes } as const;
  const { fed, result } = lane.index(job, (target) => scan(feed, layer, target), report);
  return { fed, indexed: result.then((found) => checked(layer, found)) };
}

/** The result, after its digest was compared with the manifest's. */
function checked(layer: LayerDescriptor, result: LaneResult): IndexedLayer {
  const { digest } = layer;
  if (digestText(result.blobSha256) !== digest) {
    throw new ClipError('DIGEST_MISMATCH', `layer ${digest}: the received bytes do not have this digest`, {
      hint: 'the registry, a proxy or the disk altered the layer: push it again, or index from another source',
    });
  }
  const { spans } = result;
  const { count, layerOffset, sha256 } = spans;
  if (layerOffset.length !== count + 1 || sha256.length !== 32 * count) {
    throw new Error(`layer ${digest}: ${layerOffset.length} boundaries, ${count} sums, ${sha256.length} digest bytes`);
  }
  const fault = spanFault(spans, layer.size);
  if (fault !== null) {
    throw new ClipError('LIMIT', `layer ${digest} cannot be cut into spans: ${fault}`, {
      hint: 'it was compressed in an unusual way: build it again with gzip or zstd as usual',
    });
  }
  return {
    contents: { spans, states: result.states },
    entries: EntryColumns.fromTransfer(result.entries),
    uncompressedSize: layerOffset[count]!,
    files: result.files,
    diffId: result.diffSha256 === null ? null : digestText(result.diffSha256),
    references: result.references,
    names: result.names,
    warnings: result.warnings,
  };
}

/**
 * Indexes layers, none of them twice, side by side, the largest first, as many at once as there are cores for. Passes each to
 * `onLayer` when it is done. Adds to `lanes`; the caller closes them, also after a failure.
 */
export async function indexLayers(
  lanes: Lane[],
  source: ImageSource,
  layers: readonly LayerDescriptor[],
  options: LayerIndexing,
  onLayer: (layer: LayerDescriptor, indexed: IndexedLayer) => void,
): Promise<void> {
  const waiting = [...layers].sort((a, b) => b.size - a.size);
  const wanted = Math.min(waiting.length, MAX_LANES, Math.ceil(availableParallelism() / CORES_PER_LANE));
  while (lanes.length < wanted) lanes.push(new Lane());
  const feed = new LayerFeed(source, wanted, options.signal);
  const work = lanes.slice(0, wanted).map(async (lane) => {
    const results: Promise<void>[] = [];
    for (let layer = waiting.shift(); layer !== undefined; layer = waiting.shift()) {
      options.signal?.throwIfAborted();
      const current = layer;
      const { fed, indexed } = indexLayer(lane, feed, current, options);
      if (waiting[0] !== undefined) feed.prepare(waiting[0]);
      const result = indexed.then((found) => onLayer(current, found));
      result.catch(() => {}); // reported below, unless feeding fails first
      results.push(result);
      await fed;
    }
    await Promise.all(results);
  });
  await Promise.all(work);
}
