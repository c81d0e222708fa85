import { ClipError } from '../bytes/index.js';
import { type LayerArtifacts, type LayerDescriptor, layerTag } from '../oci/index.js';
import type { IndexedLayer } from './indexed-layer.js';
import { decodeLayerIndex, encodeLayerIndex } from './layer-index.js';
import type { LayerIndexDirectory } from './layer-index-directory.js';

/** Questions to the registry at a time: an image may have 127 layers, and its registry other clients. */
const MAX_LOOKUPS = 8;

/**
 * Indexes of one image's layers from a registry, all together: they stay in memory until the archive is written. An index takes 1 % of
 * its compressed layer at most, so that these are of 13 GB of layers. The registry says what it likes of both sizes.
 */
const MAX_REGISTRY_BYTES = 128 * 1024 * 1024;

export interface KnownLayersOptions {
  readonly directory: LayerIndexDirectory | null;
  /** The image's repository. */
  readonly artifacts: LayerArtifacts | null;
  /** Find nothing. */
  readonly fresh: boolean;
  readonly checkpointMiB: number;
  /** Layers that are cut in another way, which nothing is known of. */
  readonly cuts: ReadonlyMap<string, Float64Array> | undefined;
  readonly hashes: boolean;
  readonly signal: AbortSignal | undefined;
  readonly onWarning: (warning: string) => void;
}

/**
 * The layers of an image whose index was made before: here, or by whoever pushed it beside the image. An index from the registry is
 * used for images of its repository alone and is not kept: whoever may push there decides what the image is, but not what the same
 * layer is in other repositories.
 */
export class KnownLayers {
  readonly #options: KnownLayersOptions;
  readonly #writes: Promise<void>[] = [];
  readonly #found = new Map<string, IndexedLayer>();
  /** Reasons that were told: one for all layers. */
  readonly #told = new Set<string>();
  #room = MAX_REGISTRY_BYTES;

  constructor(options: KnownLayersOptions) {
    this.#options = options;
  }

  /** By digest. An index that is damaged or cannot be fetched counts as unknown, with a warning. */
  async find(layers: readonly LayerDescriptor[]): Promise<ReadonlyMap<string, IndexedLayer>> {
    const waiting = [...layers];
    const lookUp = async (): Promise<void> => {
      for (let layer = waiting.shift(); layer !== undefined; layer = waiting.shift()) {
        this.#options.signal?.throwIfAborted();
        if (this.#options.cuts?.has(layer.digest)) continue;
        const indexed = this.#inDirectory(layer) ?? (await this.#inRegistry(layer));
        if (indexed !== null) this.#found.set(layer.digest, indexed);
      }
    };
    const { directory, artifacts, fresh } = this.#options;
    if (!fresh && (directory !== null || artifacts !== null))
      await Promise.all(Array.from({ length: MAX_LOOKUPS }, lookUp));
    return this.#found;
  }

  has(digest: string): boolean {
    return this.#found.has(digest);
  }

  #inDirectory(layer: LayerDescriptor): IndexedLayer | null {
    const { directory, checkpointMiB } = this.#options;
    if (directory === null) return null;
    try {
      const bytes = directory.read(layer.digest, checkpointMiB);
      return bytes === null ? null : this.#decode(bytes, directory.nameOf(layer.digest, checkpointMiB), layer);
    } catch (error) {
      return this.#unusable(layer, error);
    }
  }

  async #inRegistry(layer: LayerDescriptor): Promise<IndexedLayer | null> {
    const { artifacts, checkpointMiB, signal } = this.#options;
    if (artifacts === null) return null;
    const tag = layerTag(layer.digest, checkpointMiB);
    try {
      const admit = (size: number): void => {
        if (size > this.#room)
          throw new ClipError('LIMIT', `indexes of layers in the registry exceed ${MAX_REGISTRY_BYTES} bytes`);
        this.#room -= size;
      };
      const bytes = await artifacts.fetchLayer(tag, signal, admit);
      return bytes === null ? null : this.#decode(bytes, `artifact ${tag}`, layer);
    } catch (error) {
      if (signal?.aborted) throw error;
      return this.#unusable(layer, error);
    }
  }

  #decode(bytes: Uint8Array, name: string, { digest, size }: LayerDescriptor): IndexedLayer | null {
    const { checkpointMiB, hashes } = this.#options;
    return decodeLayerIndex(bytes, name, { digest, size, checkpointMiB, hashes });
  }

  #unusable({ digest }: LayerDescriptor, error: unknown): null {
    if (!(error instanceof ClipError) && (error as NodeJS.ErrnoException).syscall === undefined) throw error;
    this.#tell(`layer ${digest} is read again, because its index cannot be used`, error);
    return null;
  }

  /** Keeps the index of a layer that was read. */
  keep({ digest, size }: LayerDescriptor, layer: IndexedLayer): void {
    const { directory, checkpointMiB, cuts } = this.#options;
    if (directory === null || cuts?.has(digest)) return;
    const write = async (): Promise<void> => {
      await directory.write(digest, checkpointMiB, await encodeLayerIndex({ digest, size, checkpointMiB }, layer));
    };
    this.#writes.push(
      write().catch((error: unknown) => {
        this.#tell(`the index of layer ${digest} is not kept`, error);
      }),
    );
  }

  #tell(what: string, error: unknown): void {
    const reason = error instanceof Error ? error.message : String(error);
    if (this.#told.has(reason)) return;
    this.#told.add(reason);
    this.#options.onWarning(`${what}: ${reason}`);
  }

  /** Resolves when all that is to be kept is. */
  async kept(): Promise<void> {
    await Promise.all(this.#writes);
  }
}
