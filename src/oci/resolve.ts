import { ClipError } from '../bytes/index.js';
import { expectDigest } from './digest.js';
import { malformed } from './errors.js';
import {
  type Descriptor,
  type Index,
  type Json,
  MAX_CONFIG_BYTES,
  type Manifest,
  parseJsonObject,
  parseManifest,
} from './manifest.js';
import { DOCKER_LIST, isEncryptedLayer, isImageConfig, OCI_INDEX } from './media-types.js';
import { formatPlatform, hostPlatform, type Platform, platformScore } from './platform.js';

/** Indexes may hold indexes. Nobody nests more than twice; a chain of ever new ones must end. */
const MAX_INDEX_DEPTH = 4;
/** And a wide tree of them, too. */
const MAX_INDEXES = 32;

export interface LayerDescriptor {
  readonly digest: string;
  readonly mediaType: string;
  /** Bytes of the blob. */
  readonly size: number;
  /** Digest of the uncompressed tar, from the image's config. */
  readonly diffId: string;
}

/** What a reference stands for: every field of ImageMeta but the layers' uncompressed sizes, which are not known yet. */
export interface ResolvedImage {
  readonly reference: string;
  readonly registry: string;
  readonly repository: string;
  /** Of the one platform's manifest, not of an index above it. */
  readonly manifestDigest: string;
  readonly platform: Platform;
  readonly config: Json;
  /** In order of application, base first. */
  readonly layers: readonly LayerDescriptor[];
}

export interface ResolveOptions {
  /** Default: the host's. */
  readonly platform?: Platform | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onWarning?: ((warning: string) => void) | undefined;
  /** The bytes of a config from elsewhere, which are right; null: the source is asked. Default: the source. */
  readonly configOf?:
    | ((manifestDigest: string, config: Descriptor, signal?: AbortSignal) => Promise<Uint8Array | null>)
    | undefined;
}

/** What resolving needs of a source; both methods return verified bytes. */
export interface ContentReader {
  /** For messages: the reference. */
  readonly name: string;
  manifest(descriptor: Descriptor, signal?: AbortSignal): Promise<{ bytes: Uint8Array; contentType: string }>;
  config(descriptor: Descriptor, limit: number, signal?: AbortSignal): Promise<Uint8Array>;
}

interface Found {
  readonly digest: string;
  readonly manifest: Manifest;
  /** From the index entry, where there was one. */
  readonly platform: Platform | null;
}

/** BuildKit's provenance and SBOM manifests, which are no images. */
function isAttestation(entry: Descriptor): boolean {
  const { platform, annotations } = entry;
  return (
    annotations['vnd.docker.reference.type'] === 'attestation-manifest' ||
    (platform !== null && platform.os === 'unknown' && platform.architecture === 'unknown')
  );
}

class Search {
  readonly #reader: ContentReader;
  readonly #wanted: Platform;
  readonly #signal: AbortSignal | undefined;
  readonly #offers = new Set<string>();
  readonly #visited = new Set<string>();

  constructor(reader: ContentReader, wanted: Platform, signal: AbortSignal | undefined) {
    this.#reader = reader;
    this.#wanted = wanted;
    this.#signal = signal;
  }

  async #fetch(entry: Descriptor): Promise<Manifest | Index> {
    const { bytes, contentType } = await this.#reader.manifest(entry, this.#signal);
    return parseManifest(bytes, contentType || entry.mediaType, `manifest ${entry.digest} of ${this.#reader.name}`);
  }

  async find(index: Index, depth: number): Promise<Found | null> {
    const entries = index.manifests.filter((entry) => !isAttestation(entry));
    let best: Descriptor | null = null;
    let bestScore = 0;
    for (const entry of entries) {
      if (entry.platform === null) continue;
      this.#offers.add(formatPlatform(entry.platform));
      const score = platformScore(this.#wanted, entry.platform);
      if (score > bestScore) [best, bestScore] = [entry, score];
    }
    if (best !== null) return this.#open(best, depth);

    // Entries that do not say their platform: nested indexes, or the manifest of an image that was never multi-platform.
    const silent = entries.filter((entry) => entry.platform === null);
    const isIndex = (entry: Descriptor): boolean => entry.mediaType === OCI_INDEX || entry.mediaType === DOCKER_LIST;
    for (const entry of [...silent.filter(isIndex), ...silent.filter((entry) => !isIndex(entry))]) {
      const found = await this.#open(entry, depth);
      if (found !== null) return found;
    }
    return null;
  }

  async #open(entry: Descriptor, depth: number): Promise<Found | null> {
    if (this.#visited.has(entry.digest)) return null;
    this.#visited.add(entry.digest);
    if (this.#visited.size > MAX_INDEXES) {
      throw new ClipError('LIMIT', `the index of ${this.#reader.name} leads to more than ${MAX_INDEXES} others`);
    }
    const opened = await this.#fetch(entry);
    if (opened.kind === 'manifest') return { digest: entry.digest, manifest: opened, platform: entry.platform };
    if (depth >= MAX_INDEX_DEPTH) {
      throw new ClipError('LIMIT', `the index of ${this.#reader.name} is nested more than ${MAX_INDEX_DEPTH} deep`);
    }
    return this.find(opened, depth + 1);
  }

  miss(): ClipError {
    const offers = [...this.#offers].sort();
    return new ClipError('NO_PLATFORM', `${this.#reader.name} has no image for ${formatPlatform(this.#wanted)}`, {
      hint:
        offers.length === 0 ? 'its index lists no platforms at all' : `--platform takes one of: ${offers.join(', ')}`,
    });
  }
}

function layersOf(manifest: Manifest, config: Json, name: string): LayerDescriptor[] {
  const rootfs = config.rootfs;
  const diffIds = typeof rootfs === 'object' && rootfs !== null ? (rootfs as Json).diff_ids : undefined;
  if (!Array.isArray(diffIds)) {
    throw malformed(`the config ${manifest.config.digest} of ${name} lists no diff IDs`);
  }
  if (diffIds.length !== manifest.layers.length) {
    throw new ClipError(
      'BAD_FORMAT',
      `${name} has ${manifest.layers.length} layers, but its config lists ${diffIds.length} diff IDs`,
      { hint: 'the manifest and its config do not belong together: build and push the image again' },
    );
  }
  return manifest.layers.map((layer, i) => {
    const which = `layer ${i + 1} of ${manifest.layers.length} (${layer.digest}) of ${name}`;
    if (isEncryptedLayer(layer.mediaType)) {
      throw new ClipError('UNSUPPORTED', `${which} is encrypted (${layer.mediaType})`, {
        hint: 'decrypt the image first (skopeo copy --decryption-key …)',
      });
    }
    if (!layer.digest.startsWith('sha256:')) {
      throw new ClipError(
        'UNSUPPORTED',
        `${which} is named by ${layer.digest.split(':')[0]}; clip reads sha256 layers`,
      );
    }
    const diffId = expectDigest(diffIds[i], `diff ID ${i + 1} in the config of ${name}`);
    return { digest: layer.digest, mediaType: layer.mediaType, size: layer.size, diffId };
  });
}

/**
 * From the manifest or index that a reference names to one platform's layers and config.
 *
 * @param root the descriptor (digest, size) of what the reference names, already fetched and verified as `top`
 * @throws ClipError NO_PLATFORM with a list of what there is; BAD_FORMAT, UNSUPPORTED, LIMIT
 */
export async function resolveImage(
  reader: ContentReader,
  root: { digest: string; top: Manifest | Index },
  where: { reference: string; registry: string; repository: string },
  options: ResolveOptions,
): Promise<ResolvedImage> {
  const wanted = options.platform ?? hostPlatform();
  let found: Found | null;
  if (root.top.kind === 'manifest') {
    found = { digest: root.digest, manifest: root.top, platform: null };
  } else {
    const search = new Search(reader, wanted, options.signal);
    found = await search.find(root.top, 1);
    if (found === null) throw search.miss();
  }

  const { manifest, digest } = found;
  if (!isImageConfig(manifest.config.mediaType)) {
    throw new ClipError(
      'UNSUPPORTED',
      `${reader.name} is not a container image but an artifact (${manifest.config.mediaType})`,
    );
  }
  const bytes =
    (await options.configOf?.(digest, manifest.config, options.signal)) ??
    (await reader.config(manifest.config, MAX_CONFIG_BYTES, options.signal));
  const config = parseJsonObject(bytes, `config ${manifest.config.digest} of ${reader.name}`);
  const text = (key: string): string | undefined =>
    typeof config[key] === 'string' && config[key] !== '' ? (config[key] as string) : undefined;
  const os = text('os') ?? found.platform?.os ?? 'unknown';
  const architecture = text('architecture') ?? found.platform?.architecture ?? 'unknown';
  // The index knows the variant of what it lists; of another processor's image it knows nothing.
  const listed = found.platform?.architecture === architecture ? found.platform.variant : undefined;
  const variant = text('variant') ?? listed;
  const platform: Platform = variant === undefined ? { os, architecture } : { os, architecture, variant };
  // A variant in an old config is unreliable; the index was already matched on it.
  if (platformScore({ os: wanted.os, architecture: wanted.architecture }, { os, architecture }) === 0) {
    const difference = `${reader.name} is an image for ${formatPlatform(platform)}, not ${formatPlatform(wanted)}`;
    if (options.platform !== undefined) {
      throw new ClipError('NO_PLATFORM', difference, {
        hint: 'it has no other platform: leave --platform out to take it',
      });
    }
    options.onWarning?.(difference);
  }
  return { ...where, manifestDigest: digest, platform, config, layers: layersOf(manifest, config, reader.name) };
}
