import { isDigest } from './digest.js';
import { type Descriptor, type Json, type Manifest, parseJsonObject, parseManifest } from './manifest.js';
import { OCI_MANIFEST } from './media-types.js';

/* The manifests of artifacts that clip keeps in registries (artifacts.ts). */

export const ARCHIVE_ARTIFACT = 'application/vnd.clipfs.archive.v1';
export const ARCHIVE_LAYER = 'application/vnd.clipfs.archive.v1.clip';
/** The index of a single layer: under a tag that its layer's digest gives, because an image is not needed to find it. */
export const LAYER_ARTIFACT = 'application/vnd.clipfs.layer.v1';
export const LAYER_LAYER = 'application/vnd.clipfs.layer.v1.clip';
/** What starts of an image read first (src/lazy/profile.ts), as deflated JSON. */
export const PROFILE_ARTIFACT = 'application/vnd.clipfs.profile.v1';
export const PROFILE_LAYER = 'application/vnd.clipfs.profile.v1+deflate';
/** Of a profile: the command of those starts, and their number. */
export const OF_COMMAND = 'org.clipfs.profile.command';
export const STARTS = 'org.clipfs.profile.starts';
/** Of an archive that is kept in a repository without its image: the manifest that it is of. */
export const OF_MANIFEST = 'org.clipfs.image.manifest';

/** The archive in an artifact's manifest, if it is one of this image. */
export function archiveLayer(bytes: Uint8Array, manifestDigest: string): Descriptor | null {
  return artifactLayer(bytes, ARCHIVE_ARTIFACT, ARCHIVE_LAYER, manifestDigest);
}

/** The layer of this media type in the manifest of an artifact of this type, and with this subject if one is given. */
export function artifactLayer(bytes: Uint8Array, type: string, mediaType: string, subject?: string): Descriptor | null {
  let manifest: Manifest;
  try {
    const found = parseJsonObject(bytes, 'artifact');
    const parsed = parseManifest(bytes, OCI_MANIFEST, 'artifact');
    if (subject !== undefined && imageOf(found) !== subject) return null;
    if (found.artifactType !== type || parsed.kind !== 'manifest') return null;
    manifest = parsed;
  } catch {
    return null; // something else under that tag
  }
  return manifest.layers.find((layer) => layer.mediaType === mediaType) ?? null;
}

/** The manifest that an artifact is of. */
function imageOf({ subject, annotations }: Json): unknown {
  if (subject !== undefined) return (subject as { digest?: unknown } | null)?.digest;
  return (annotations as Record<string, unknown> | null | undefined)?.[OF_MANIFEST];
}

/** The bytes of a blob that stand in its descriptor ("data"); not compared with its digest. Null: they do not. */
export function embeddedBytes(manifest: Uint8Array, digest: string): Uint8Array | null {
  const { config, layers } = parseJsonObject(manifest, 'artifact');
  const descriptors = [config, ...(Array.isArray(layers) ? layers : [])] as ({
    digest?: unknown;
    data?: unknown;
  } | null)[];
  const data = descriptors.find((one) => one?.digest === digest)?.data;
  return typeof data === 'string' ? Buffer.from(data, 'base64') : null;
}

export interface Referrer {
  readonly digest: string;
  readonly annotations: Json;
}

/** The referrers of one type in a list of them. */
export function referrersOf(bytes: Uint8Array, what: string, type: string): Referrer[] {
  const { manifests } = parseJsonObject(bytes, what);
  if (!Array.isArray(manifests)) return [];
  return (manifests as (Json | null)[])
    .filter((entry) => entry?.artifactType === type && isDigest(String(entry.digest)))
    .map((entry) => ({ digest: String(entry!.digest), annotations: (entry!.annotations ?? {}) as Json }));
}

/** Profiles of a command, that of most starts first: registries list those that were replaced as well. */
export function profilesIn(referrers: readonly Referrer[], command: string): string[] {
  const starts = ({ annotations }: Referrer): number => Number(annotations[STARTS]) || 0;
  return referrers
    .filter(({ annotations }) => annotations[OF_COMMAND] === command)
    .sort((a, b) => starts(b) - starts(a))
    .map(({ digest }) => digest);
}
