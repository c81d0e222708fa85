import {
  type ArchiveContents,
  buildArchive,
  deflateTree,
  type ImageMeta,
  type LayerContents,
  MAX_SPANS,
  type Profile,
} from '../archive/index.js';
import type { LayerIndex, SpanIndex } from '../bytes/index.js';
import { AbortError, anyFunction, boolean, ClipError, checked, optionsOf, shown, string } from '../bytes/index.js';
import { type ErofsImage, ErofsReader, type Placement, TreeListing, treeWarnings, writeErofs } from '../erofs/index.js';
import {
  type Credentials,
  credentialsOption,
  type ImageSource,
  type LayerDescriptor,
  openImageSource,
  type Platform,
  parsePlatform,
  parseReference,
  type RegistryCredentialProvider,
  type ResolvedImage,
} from '../oci/index.js';
import { type ElfFile, elfFiles, linkReferences, staticProfile } from '../startup/index.js';
import { TreeBuilder } from '../tree/index.js';
import { fileHashes } from './file-hashes.js';
import { type IndexedLayer, indexLayers, type LayerIndexing, type LayerProgress } from './image-layers.js';
import { Lane } from './lane.js';
import { checkWritable, writeFileByRename } from './output-file.js';

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
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: LayerProgress) => void) | undefined;
  readonly onWarning?: ((warning: string) => void) | undefined;
}

const checkOptions = optionsOf(
  { imageRef: string, outputPath: string },
  {
    checkpointMiB: (value) => value, // checked with the flag of clipctl
    storageImageRef: string,
    platform: checked('a string such as "linux/amd64", or { os, architecture }', (value) => {
      const { os, architecture } = Object(value) as Partial<Platform>;
      return typeof value === 'string' || (typeof os === 'string' && typeof architecture === 'string');
    }),
    credentials: credentialsOption,
    plainHttp: boolean,
    hashes: boolean,
    signal: checked('an AbortSignal', (value) => value instanceof AbortSignal),
    onProgress: anyFunction,
    onWarning: anyFunction,
  },
);

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
  return mib * 1024 * 1024;
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

/** A profile is a hint: an image is indexed without one rather than not at all. */
async function deriveProfile(
  made: MadeArchive,
  reader: ErofsReader,
  elf: readonly ElfFile[],
  source: ImageSource,
  signal: AbortSignal | undefined,
  onWarning: (warning: string) => void,
): Promise<Profile | null> {
  const layers = {
    image: made.image,
    layers: made.layers.map(({ spans }) => ({ table: spans })),
    checkpointState: (layer: LayerIndex, span: SpanIndex) => made.layers[layer]!.states[span]!,
  };
  try {
    return await staticProfile(made.image, reader, made.placement, elf, layers, source, signal);
  } catch (error) {
    signal?.throwIfAborted();
    onWarning(`no start-up profile could be derived: ${error instanceof Error ? error.message : String(error)}`);
    return null;
  }
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
 * Reads the distinct layers side by side, and applies each to the tree as soon as those below it are applied.
 * @param lanes at least one; more are added, and all are closed when the layers are read
 * @returns one for each layer of the image, in its order
 */
async function readLayers(
  lanes: Lane[],
  source: ImageSource,
  layers: readonly LayerDescriptor[],
  options: LayerIndexing,
  builder: TreeBuilder,
): Promise<IndexedLayer[]> {
  const done = new Map<string, IndexedLayer>();
  let applied = 0;
  const applyReady = (): void => {
    for (let next = layers[applied]; next !== undefined; next = layers[applied]) {
      const layer = done.get(next.digest);
      if (layer === undefined) return;
      builder.applyLayer(applied++, layer.entries);
    }
  };
  await indexLayers(lanes, source, layers, options, (digest, layer) => {
    done.set(digest, layer);
    applyReady();
  });
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
async function startupHints(
  made: MadeArchive,
  indexed: readonly IndexedLayer[],
  recorded: IndexExtras['profile'],
  source: ImageSource,
  signal: AbortSignal | undefined,
  onWarning: (warning: string) => void,
): Promise<Pick<ArchiveContents, 'profile' | 'references'>> {
  const reader = new ErofsReader(made.tree);
  const listing = new TreeListing(reader);
  const elf = elfFiles(reader, listing, made.placement, indexed);
  const profile =
    recorded === undefined ? await deriveProfile(made, reader, elf, source, signal, onWarning) : recorded(made);
  // With a recorded profile references are not used.
  const references = profile?.source === 'recorded' ? null : linkReferences(made.image, listing, elf, indexed);
  return { profile, references };
}

function layerResults({ image, layers }: MadeArchive): IndexResult['layers'] {
  return layers.map(({ spans, states }, i) => ({
    digest: image.layers[i]!.digest,
    kind: spans.kind,
    spans: spans.count,
    windowBytes: states.reduce((sum, state) => sum + state.length, 0),
  }));
}

/** createFromOCIImage, with the additions of `clipctl optimize`. */
export async function indexImage(options: CreateFromOCIImageOptions, extras: IndexExtras): Promise<IndexResult> {
  const started = performance.now();
  const spanBytes = checkpointBytes(options.checkpointMiB);
  const { signal, imageRef, outputPath, hashes = false } = options;
  const reference = parseReference(imageRef);
  await checkWritable(outputPath);
  const source = openImageSource(reference, {
    ...(options.credentials === undefined ? {} : { credentials: options.credentials }),
    ...(options.plainHttp === undefined ? {} : { plainHttp: options.plainHttp }),
  });
  const lanes = [new Lane()]; // its threads start while the manifest is fetched
  const warnings: string[] = [];
  const onWarning = (warning: string): void => {
    warnings.push(warning);
    options.onWarning?.(warning);
  };
  try {
    const resolved = await resolveImage(source, options, onWarning);
    extras.onResolved?.(resolved);
    const builder = new TreeBuilder();
    const layerOptions = { spanBytes, cuts: extras.cuts, hashes, signal, onProgress: options.onProgress, onWarning };
    const indexed = await readLayers(lanes, source, resolved.layers, layerOptions, builder);
    const sizes = indexed.map((layer) => layer.uncompressedSize);
    const found = imageMetaOf(resolved, sizes, options.storageImageRef);
    const image = extras.reference === undefined ? found : { ...found, reference: extras.reference };
    const { image: tree, placement, stats } = writeTree(builder, image, onWarning);
    const deflating = deflateTree(tree); // beside the remaining work
    const made = { image, tree, layers: indexed.map((layer) => layer.contents), placement };
    checkSpanCount(made.layers);
    const digests = indexed.map((layer) => layer.files);
    const fileSums = hashes ? fileHashes(tree, placement, digests) : null;
    const hints = await startupHints(made, indexed, extras.profile, source, signal, onWarning);
    const archive = buildArchive({ ...made, storedTree: await deflating, hashes: fileSums, ...hints });
    await writeFileByRename(outputPath, archive.parts, signal);
    return {
      outputPath,
      identity: archive.identity,
      image,
      size: archive.parts.reduce((sum, part) => sum + part.length, 0),
      layers: layerResults(made),
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
