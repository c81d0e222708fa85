import {
  type ArchiveContents,
  buildArchive,
  deflateSection,
  type ImageMeta,
  type LayerContents,
  MAX_SPANS,
  type Profile,
} from '../archive/index.js';
import { AbortError, anyFunction, boolean, ClipError, checked, optionsOf, shown, string } from '../bytes/index.js';
import { type ErofsImage, ErofsReader, type Placement, TreeListing, treeWarnings, writeErofs } from '../erofs/index.js';
import { type FinishedWork, openTelemetry, packageVersion, redact, wantsTelemetry } from '../metrics/index.js';
import {
  type Credentials,
  credentialsOption,
  type ImageSource,
  type KeptLayers,
  type LayerDescriptor,
  openImageSource,
  type Platform,
  parsePlatform,
  parseReference,
  type RegistryCredentialProvider,
  type ResolvedImage,
} from '../oci/index.js';
import { elfFiles, linkReferences, staticProfile } from '../startup/index.js';
import { TreeBuilder } from '../tree/index.js';
import { fileHashes } from './file-hashes.js';
import { indexLayers, type LayerIndexing } from './image-layers.js';
import { type IndexedLayer, useInImage } from './indexed-layer.js';
import { KnownLayers } from './known-layers.js';
import { type Lane, takeLane } from './lane.js';
import { LayerIndexDirectory } from './layer-index-directory.js';
import { checkWritable, writeFileByRename } from './output-file.js';
import { IndexProgress, type LayerProgress } from './progress.js';

const MIB = 1024 * 1024;
/** `--checkpoint`, in MiB of uncompressed output. */
const MIN_CHECKPOINT_MIB = 1;
const MAX_CHECKPOINT_MIB = 64;
/** docs/operations.md, "Spans": a single start saves several times the bytes that 1 MiB adds to the archive. */
const DEFAULT_CHECKPOINT_MIB = 1;

export interface CreateFromOCIImageOptions {
  /** "registry/repository:tag", "…@sha256:…", or a layout: "oci:DIR[:TAG]", "oci-archive:FILE[:TAG]", "docker-archive:FILE[:NAME]". */
  readonly imageRef: string;
  /** Appears, or is replaced, by rename once it is complete. */
  readonly outputPath: string;
  /** MiB of uncompressed layer between checkpoints, 1 to 64. Default 1. */
  readonly checkpointMiB?: number | undefined;
  /** Where mounts fetch the layers, if not from `imageRef`: a copy of the image in another registry. */
  readonly storageImageRef?: string | undefined;
  /** "linux/arm64/v8". Default: the host's. */
  readonly platform?: string | Platform | undefined;
  /** null: anonymous. Default: the Docker config of this process. */
  readonly credentials?: Credentials | RegistryCredentialProvider | null | undefined;
  readonly plainHttp?: boolean | undefined;
  /** Also check diff IDs and record the SHA-256 of every regular file. */
  readonly hashes?: boolean | undefined;
  /**
   * Where the indexes of single layers are kept, for images that share layers: layers that are known there are not read again. It
   * must be this user's alone, and is made if need be. Default: nothing is kept.
   */
  readonly layerIndexDirectory?: string | undefined;
  /** Also use the indexes of layers that the image's registry keeps (`clipctl index --push`). Default false. */
  readonly registryLayerIndexes?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: LayerProgress) => void) | undefined;
  readonly onWarning?: ((warning: string) => void) | undefined;
}

/** The options of every function that indexes an image, but for the image. */
export const INDEX_OPTIONS = {
  checkpointMiB: (value: unknown) => value, // checked with the flag of clipctl
  storageImageRef: string,
  platform: checked('a string such as "linux/amd64", or { os, architecture }', (value) => {
    const { os, architecture } = Object(value) as Partial<Platform>;
    return typeof value === 'string' || (typeof os === 'string' && typeof architecture === 'string');
  }),
  credentials: credentialsOption,
  plainHttp: boolean,
  hashes: boolean,
  layerIndexDirectory: string,
  registryLayerIndexes: boolean,
  signal: checked('an AbortSignal', (value) => value instanceof AbortSignal),
  onProgress: anyFunction,
  onWarning: anyFunction,
} as const;

const checkOptions = optionsOf({ imageRef: string, outputPath: string }, INDEX_OPTIONS);

export interface IndexResult {
  readonly outputPath: string;
  /** "sha256:…" of the raw sections. */
  readonly identity: string;
  readonly image: ImageMeta;
  /** Bytes of the archive. */
  readonly size: number;
  readonly layers: readonly {
    readonly digest: string;
    readonly kind: string;
    readonly spans: number;
    readonly windowBytes: number;
    /** Its index was there before: it was not read. */
    readonly known: boolean;
  }[];
  /** Inodes in the tree. */
  readonly inodes: number;
  readonly compressedSize: number;
  readonly uncompressedSize: number;
  readonly warnings: readonly string[];
  readonly milliseconds: number;
}

export interface IndexExtras {
  /** Called before the layers are read. May throw: then nothing is written. */
  readonly onResolved?: ((image: ResolvedImage) => void) | undefined;
  /** Offsets at which to cut a layer in place of regular checkpoints, by layer digest (workload-shaped spans). */
  readonly cuts?: ReadonlyMap<string, Float64Array> | undefined;
  /** The archive's reference, if not the one that it is made from: an archive that is made again keeps its name. */
  readonly reference?: string | undefined;
  /** Read every layer, whatever is known of it; its index is kept as otherwise. */
  readonly fresh?: boolean | undefined;
  /** Keeps the layers for a reader after this one. */
  readonly kept?: KeptLayers | undefined;
  /** The profile to embed, once the spans are known. */
  readonly profile?: ((made: MadeArchive) => Profile | null) | undefined;
}

/** Everything but the profile. */
export interface MadeArchive {
  readonly image: ImageMeta;
  readonly tree: Uint8Array;
  readonly layers: readonly LayerContents[];
  readonly placement: Placement | null;
}

/** Of `checkpointMiB`, in bytes. @throws ClipError USAGE */
export function checkpointBytes(mib: number = DEFAULT_CHECKPOINT_MIB): number {
  if (!Number.isInteger(mib) || mib < MIN_CHECKPOINT_MIB || mib > MAX_CHECKPOINT_MIB) {
    const range = `${MIN_CHECKPOINT_MIB} to ${MAX_CHECKPOINT_MIB}`;
    throw new ClipError('USAGE', `a checkpoint every ${shown(mib)} MiB: a whole number from ${range} expected`, {
      hint: 'leave --checkpoint (checkpointMiB) out for the default, which suits most images',
    });
  }
  return mib * MIB;
}

/** The archive's image section. Mounts may fetch from another place than it was indexed from. */
function imageMetaOf(
  resolved: ResolvedImage,
  sizes: readonly number[],
  storageImageRef: string | undefined,
): ImageMeta {
  const { reference, registry, repository, manifestDigest, platform, config } = resolved;
  const layers = resolved.layers.map(({ digest, mediaType, size, diffId }, i) => {
    return { digest, mediaType, size, diffId, uncompressedSize: sizes[i]! };
  });
  const image = { reference, registry, repository, manifestDigest, platform, config, layers };
  if (storageImageRef === undefined) return image;
  const storage = parseReference(storageImageRef);
  if (storage.kind === 'layout')
    return { ...image, reference: storageImageRef, registry: '', repository: storage.repository };
  return { ...image, reference: storageImageRef, registry: storage.registry, repository: storage.repository };
}

/**
 * Indexes an OCI image: reads every layer once, and writes a `.clip` archive. The same image gives the same archive.
 *
 * @throws ClipError naming the image, the layer or the output file; then `outputPath` is as it was before
 * @example
 * const { size } = await createFromOCIImage({ imageRef: '127.0.0.1:5000/py:latest', outputPath: 'py.clip' });
 */
export async function createFromOCIImage(options: CreateFromOCIImageOptions): Promise<IndexResult> {
  checkOptions(options, 'createFromOCIImage: options');
  return indexImage(options, {});
}

function resolveImage(
  source: ImageSource,
  { platform, signal }: CreateFromOCIImageOptions,
  onWarning: (warning: string) => void,
): Promise<ResolvedImage> {
  const wanted = typeof platform === 'string' ? parsePlatform(platform) : platform;
  return source.resolve({ ...(wanted === undefined ? {} : { platform: wanted }), signal, onWarning });
}

/**
 * Finds the layers whose index is known, reads the other distinct ones side by side, and applies each to the tree as soon as those
 * below it are applied.
 * @param lanes at least one; more are added, and all are closed when the layers are read
 * @returns one for each layer of the image, in its order
 */
async function readLayers(
  lanes: Lane[],
  source: ImageSource,
  layers: readonly LayerDescriptor[],
  known: KnownLayers,
  options: LayerIndexing & { readonly onWarning: (warning: string) => void },
  builder: TreeBuilder,
): Promise<IndexedLayer[]> {
  const done = new Map<string, IndexedLayer>();
  let applied = 0;
  const applyReady = (): void => {
    for (let next = layers[applied]; next !== undefined; next = layers[applied]) {
      const layer = done.get(next.digest);
      if (layer === undefined) return;
      if (layers.findIndex(({ digest }) => digest === next.digest) === applied)
        useInImage(next, layer, options.hashes, options.onWarning);
      builder.applyLayer(applied++, layer.entries);
    }
  };
  const distinct = [...new Map(layers.map((layer) => [layer.digest, layer])).values()];
  const found = await known.find(distinct);
  for (const layer of distinct) {
    const indexed = found.get(layer.digest);
    if (indexed === undefined) continue;
    done.set(layer.digest, indexed);
    options.progress.known(layer, indexed.uncompressedSize);
  }
  const unknown = distinct.filter(({ digest }) => !done.has(digest));
  const reading = indexLayers(lanes, source, unknown, options, (layer, indexed) => {
    done.set(layer.digest, indexed);
    applyReady();
    known.keep(layer, indexed);
  });
  applyReady(); // the known ones at the base, while the others arrive
  await reading;
  options.signal?.throwIfAborted();
  // Their threads end beside the remaining work, which can use their memory.
  for (const lane of lanes) void lane.close();
  return layers.map((layer) => done.get(layer.digest)!);
}

/** The tree as an EROFS image with one device for each layer. */
function writeTree(builder: TreeBuilder, { layers }: ImageMeta, onWarning: (warning: string) => void): ErofsImage {
  const devices = layers.map(({ digest, uncompressedSize }) => {
    return { tag: digest.slice('sha256:'.length), blocks: Math.ceil(uncompressedSize / 512) };
  });
  const written = writeErofs(builder.finish(), devices);
  for (const warning of treeWarnings(written.stats)) onWarning(warning);
  return written;
}

/** @throws ClipError LIMIT */
function checkSpanCount(layers: readonly LayerContents[]): void {
  const spans = layers.reduce((sum, layer) => sum + layer.spans.count, 0);
  if (spans <= MAX_SPANS) return;
  throw new ClipError('LIMIT', `the image has ${spans} spans, at most ${MAX_SPANS} are possible`, {
    hint: 'make them longer: --checkpoint 4',
  });
}

/** What a mount may fetch before it is asked for. */
function startupHints(
  made: MadeArchive,
  indexed: readonly IndexedLayer[],
  recorded: IndexExtras['profile'],
): Pick<ArchiveContents, 'profile' | 'references'> {
  const reader = new ErofsReader(made.tree);
  const profile = recorded === undefined ? staticProfile(made.image, reader, made.placement, indexed) : recorded(made);
  // With a recorded profile references are not used.
  if (profile?.source === 'recorded') return { profile, references: null };
  const listing = new TreeListing(reader);
  const elf = elfFiles(reader, listing, made.placement, indexed);
  return { profile, references: linkReferences(made.image, listing, elf, indexed) };
}

function layerResults({ image, layers }: MadeArchive, known: KnownLayers): IndexResult['layers'] {
  return layers.map(({ spans, states }, i) => ({
    digest: image.layers[i]!.digest,
    kind: spans.kind,
    spans: spans.count,
    windowBytes: states.reduce((sum, state) => sum + state.length, 0),
    known: known.has(image.layers[i]!.digest),
  }));
}

/** createFromOCIImage, with the additions of `clipctl optimize`. */
export function indexImage(options: CreateFromOCIImageOptions, extras: IndexExtras): Promise<IndexResult> {
  return wantsTelemetry() ? indexTold(options, extras) : indexUntold(options, extras);
}

/** The same, with a span for OpenTelemetry. */
async function indexTold(options: CreateFromOCIImageOptions, extras: IndexExtras): Promise<IndexResult> {
  const telemetry = await openTelemetry('index', packageVersion(), (message, hint) =>
    options.onWarning?.(`${message}. ${hint}`),
  );
  const started = performance.now();
  const tell = (attributes: FinishedWork['attributes'], error?: string): void =>
    telemetry.work({ name: 'index', started, ended: performance.now(), attributes, error });
  try {
    const result = await indexUntold(options, extras);
    const { inodes, compressedSize, uncompressedSize } = result;
    tell({
      reference: redact(options.imageRef),
      inodes,
      compressedSize,
      uncompressedSize,
      layers: result.layers.length,
    });
    return result;
  } catch (error) {
    tell({ reference: redact(options.imageRef) }, redact(String(error)));
    throw error;
  } finally {
    await telemetry.close();
  }
}

async function indexUntold(options: CreateFromOCIImageOptions, extras: IndexExtras): Promise<IndexResult> {
  const started = performance.now();
  const spanBytes = checkpointBytes(options.checkpointMiB);
  const { signal, imageRef, outputPath, hashes = false } = options;
  const reference = parseReference(imageRef);
  await checkWritable(outputPath);
  const origin = openImageSource(reference, {
    ...(options.credentials === undefined ? {} : { credentials: options.credentials }),
    ...(options.plainHttp === undefined ? {} : { plainHttp: options.plainHttp }),
  });
  const source = extras.kept?.wrap(origin) ?? origin;
  const lanes = [takeLane()]; // its threads start while the manifest is fetched
  const warnings: string[] = [];
  const onWarning = (warning: string): void => {
    warnings.push(warning);
    options.onWarning?.(warning);
  };
  try {
    const resolved = await resolveImage(source, options, onWarning);
    extras.onResolved?.(resolved);
    const builder = new TreeBuilder();
    const progress = new IndexProgress(resolved.layers, options.onProgress);
    const { cuts } = extras;
    const directory = options.layerIndexDirectory;
    const known = new KnownLayers({
      directory: directory === undefined ? null : new LayerIndexDirectory(directory),
      artifacts: options.registryLayerIndexes === true ? await source.artifacts() : null,
      fresh: extras.fresh ?? false,
      checkpointMiB: spanBytes / MIB,
      cuts,
      hashes,
      signal,
      onWarning,
    });
    const layerOptions = { spanBytes, cuts, hashes, signal, progress, onWarning };
    const indexed = await readLayers(lanes, source, resolved.layers, known, layerOptions, builder);
    progress.stage('tree');
    const sizes = indexed.map((layer) => layer.uncompressedSize);
    const found = imageMetaOf(resolved, sizes, options.storageImageRef);
    const image = extras.reference === undefined ? found : { ...found, reference: extras.reference };
    const { image: tree, placement, stats } = writeTree(builder, image, onWarning);
    const deflating = deflateSection(tree); // beside the remaining work
    const made = { image, tree, layers: indexed.map((layer) => layer.contents), placement };
    checkSpanCount(made.layers);
    const digests = indexed.map((layer) => layer.files);
    const fileSums = hashes ? fileHashes(tree, placement, digests) : null;
    const hints = startupHints(made, indexed, extras.profile);
    progress.stage('archive');
    const archive = buildArchive({ ...made, storedTree: await deflating, hashes: fileSums, ...hints });
    await writeFileByRename(outputPath, archive.parts, signal);
    await known.kept();
    return {
      outputPath,
      identity: archive.identity,
      image,
      size: archive.parts.reduce((sum, part) => sum + part.length, 0),
      layers: layerResults(made, known),
      inodes: stats.inodes,
      compressedSize: image.layers.reduce((sum, layer) => sum + layer.size, 0),
      uncompressedSize: image.layers.reduce((sum, layer) => sum + layer.uncompressedSize, 0),
      warnings,
      milliseconds: Math.round(performance.now() - started),
    };
  } catch (error) {
    if (signal?.aborted) throw new AbortError(`indexing ${imageRef}`, signal);
    throw error;
  } finally {
    await Promise.all([...lanes.map((lane) => lane.close()), source.close()]);
  }
}
