import { availableParallelism } from 'node:os';
import { type LayerContents, spanFault } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import { type BlobTarget, type ImageSource, isForeignLayer, type LayerDescriptor } from '../oci/index.js';
import type { LayerReferences, ModuleImports } from '../startup/index.js';
import { EntryColumns } from '../tar/index.js';
import { digestText, Lane, type LaneResult } from './lane.js';
import type { FileDigests } from './lane-protocol.js';

/**
 * Layers indexed at once. Each has two threads and 12 MiB of buffers, some 45 MB together: four keep the whole below the
 * 300 MB that indexing may take.
 */
const MAX_LANES = 4;
/** Decoding and digesting a layer keep about one core each busy: more lanes would only share them. */
const CORES_PER_LANE = 2;

export interface LayerProgress {
  readonly digest: string;
  /** Compressed bytes that are decoded and hashed, and all of the layer. */
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
  readonly references: LayerReferences;
  readonly imports: readonly ModuleImports[];
}

export interface LayerIndexing {
  readonly spanBytes: number;
  /** By digest: offsets at which to cut a layer, instead of every `spanBytes`. */
  readonly cuts: ReadonlyMap<string, Float64Array> | undefined;
  readonly hashes: boolean;
  readonly signal: AbortSignal | undefined;
  readonly onProgress: ((progress: LayerProgress) => void) | undefined;
  readonly onWarning: (warning: string) => void;
}

/** Reads a layer's blob. A foreign layer is read like any other if the registry has it. */
async function scan(
  source: ImageSource,
  { digest, size, mediaType }: LayerDescriptor,
  target: BlobTarget,
  signal: AbortSignal | undefined,
): Promise<void> {
  try {
    await source.scanBlob(digest, size, target, { signal });
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
  source: ImageSource,
  layer: LayerDescriptor,
  options: LayerIndexing,
): { fed: Promise<void>; indexed: Promise<IndexedLayer> } {
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
  const cuts = options.cuts?.get(digest) ?? null;
  const job = { type: 'layer', digest, blobBytes: size, spanBytes: options.spanBytes, cuts, hashes } as const;
  const { fed, result } = lane.index(job, (target) => scan(source, layer, target, signal), report);
  return { fed, indexed: result.then((found) => checked(layer, found, options.onWarning)) };
}

/** The result, after its digests were compared with those in manifest and config. */
function checked(layer: LayerDescriptor, result: LaneResult, onWarning: (warning: string) => void): IndexedLayer {
  const { digest } = layer;
  if (digestText(result.blobSha256) !== digest) {
    throw new ClipError('DIGEST_MISMATCH', `layer ${digest}: the received bytes do not have this digest`, {
      hint: 'the registry, a proxy or the disk altered the layer: push it again, or index from another source',
    });
  }
  if (result.diffSha256 !== null && layer.diffId.startsWith('sha256:')) {
    if (digestText(result.diffSha256) !== layer.diffId) {
      throw new ClipError(
        'DIGEST_MISMATCH',
        `layer ${digest}: its tar does not have the digest ${layer.diffId} of the config`,
        {
          hint: 'layer and config do not belong together: build and push the image again',
        },
      );
    }
  }
  for (const warning of result.warnings) onWarning(`layer ${digest}: ${warning}`);
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
    references: result.references,
    imports: result.imports,
  };
}

/**
 * Indexes the distinct layers side by side, the largest first, as many at once as there are cores for. Passes each with its digest to
 * `onLayer` when it is done. Adds to `lanes`; the caller closes them, also after a failure.
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
  const wanted = Math.min(waiting.length, MAX_LANES, Math.ceil(availableParallelism() / CORES_PER_LANE));
  while (lanes.length < wanted) lanes.push(new Lane());
  const work = lanes.slice(0, wanted).map(async (lane) => {
    const results: Promise<void>[] = [];
    for (let layer = waiting.shift(); layer !== undefined; layer = waiting.shift()) {
      options.signal?.throwIfAborted();
      const { digest } = layer;
      const { fed, indexed } = indexLayer(lane, source, layer, options);
      const result = indexed.then((found) => onLayer(digest, found));
      result.catch(() => {}); // reported below, unless feeding fails first
      results.push(result);
      await fed;
    }
    await Promise.all(results);
  });
  await Promise.all(work);
}
