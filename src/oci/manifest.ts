import { ClipError, parseJson } from '../bytes/index.js';
import { expectDigest } from './digest.js';
import { malformed } from './errors.js';
import { DOCKER_LIST, DOCKER_MANIFEST, isSchema1, OCI_INDEX, OCI_MANIFEST } from './media-types.js';
import type { Platform } from './platform.js';

/** distribution-spec, "Pushing Manifests": registries should take 4 MiB and clients should not go beyond. */
export const MAX_MANIFEST_BYTES = 4 * 1024 * 1024;
/** Configs carry labels and a history; none seen is near 1 MiB. Parsed at open, so bounded. */
export const MAX_CONFIG_BYTES = 16 * 1024 * 1024;
/** overlay2 stops at 128; squashing tools and EROFS (65,535 devices) go further. Bounds per-layer work and memory. */
export const MAX_LAYERS = 1024;

export interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly platform: Platform | null;
  readonly annotations: Readonly<Record<string, string>>;
}

export interface Manifest {
  readonly kind: 'manifest';
  readonly config: Descriptor;
  readonly layers: readonly Descriptor[];
}

export interface Index {
  readonly kind: 'index';
  readonly manifests: readonly Descriptor[];
}

export type Json = Readonly<Record<string, unknown>>;

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** @throws ClipError BAD_FORMAT that names `what` unless the bytes are a JSON object. */
export function parseJsonObject(bytes: Uint8Array, what: string): Json {
  let value: unknown;
  try {
    value = parseJson(bytes);
  } catch {
    // The parser's error quotes the text (docs/security.md, "What errors say").
    throw malformed(`${what} is not JSON`);
  }
  if (!isObject(value)) throw malformed(`${what} is not a JSON object`);
  return value;
}

function parsePlatformField(value: unknown): Platform | null {
  if (!isObject(value)) return null;
  const { os, architecture, variant } = value;
  if (typeof os !== 'string' || typeof architecture !== 'string') return null;
  return typeof variant === 'string' && variant !== '' ? { os, architecture, variant } : { os, architecture };
}

function parseAnnotations(value: unknown): Record<string, string> {
  if (!isObject(value)) return {};
  return Object.fromEntries(
    Object.entries(value).filter((entry): entry is [string, string] => typeof entry[1] === 'string'),
  );
}

function parseDescriptor(value: unknown, where: string): Descriptor {
  if (!isObject(value)) throw malformed(`${where} is not an object`);
  const digest = expectDigest(value.digest, `${where}.digest`);
  const size = value.size;
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) {
    throw malformed(`${where}.size is not a byte count: ${JSON.stringify(size)?.slice(0, 100) ?? 'missing'}`);
  }
  return {
    mediaType: typeof value.mediaType === 'string' ? value.mediaType : '',
    digest,
    size,
    platform: parsePlatformField(value.platform),
    annotations: parseAnnotations(value.annotations),
  };
}

/**
 * Parses a manifest or index. The body's own mediaType decides, then the Content-Type, then the shape; a body that could be
 * read as both is refused, so that two readers cannot see two images under one digest (CVE-2021-41190).
 *
 * @throws ClipError BAD_FORMAT, UNSUPPORTED (schema 1, artifacts), LIMIT
 */
export function parseManifest(bytes: Uint8Array, contentType: string, what: string): Manifest | Index {
  const json = parseJsonObject(bytes, what);
  const declared = typeof json.mediaType === 'string' ? json.mediaType : (contentType.split(';')[0] ?? '').trim();
  if (json.schemaVersion === 1 || isSchema1(declared)) {
    throw new ClipError('UNSUPPORTED', `${what} is a Docker schema 1 manifest, which has no layer digests to rely on`, {
      hint: 'push the image again with a current tool (skopeo copy --format oci …)',
    });
  }
  if (json.schemaVersion !== 2) {
    throw malformed(`${what} has no schemaVersion 2`);
  }
  const hasManifests = json.manifests !== undefined;
  const hasLayers = json.layers !== undefined || json.config !== undefined;
  if (hasManifests && hasLayers) {
    throw malformed(`${what} claims to be a manifest and an index at once`);
  }
  if (
    declared === OCI_INDEX ||
    declared === DOCKER_LIST ||
    (hasManifests && declared !== OCI_MANIFEST && declared !== DOCKER_MANIFEST)
  ) {
    const manifests = json.manifests;
    if (!Array.isArray(manifests)) throw malformed(`${what} is an index without a list of manifests`);
    return {
      kind: 'index',
      manifests: manifests.map((entry, i) => parseDescriptor(entry, `${what}: manifests[${i}]`)),
    };
  }
  const layers = json.layers;
  if (!Array.isArray(layers)) throw malformed(`${what} has no list of layers`);
  if (layers.length > MAX_LAYERS) {
    throw new ClipError('LIMIT', `${what} has ${layers.length} layers; clip takes up to ${MAX_LAYERS}`);
  }
  return {
    kind: 'manifest',
    config: parseDescriptor(json.config, `${what}: config`),
    layers: layers.map((entry, i) => parseDescriptor(entry, `${what}: layers[${i}]`)),
  };
}
