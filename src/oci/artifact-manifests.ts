import { type Descriptor, type Json, type Manifest, parseJsonObject, parseManifest } from './manifest.js';
import { OCI_MANIFEST } from './media-types.js';

/* The manifests of artifacts that clip keeps in registries (artifacts.ts). */

export const ARCHIVE_ARTIFACT = 'application/vnd.clipfs.archive.v1';
export const ARCHIVE_LAYER = 'application/vnd.clipfs.archive.v1.clip';
/** The index of a single layer: under a tag that its layer's digest gives, because an image is not needed to find it. */
export const LAYER_ARTIFACT = 'application/vnd.clipfs.layer.v1';
export const LAYER_LAYER = 'application/vnd.clipfs.layer.v1.clip';
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

export function referrersOf(bytes: Uint8Array, what: string): { digest?: unknown }[] {
  const { manifests } = parseJsonObject(bytes, what);
  if (!Array.isArray(manifests)) return [];
  return manifests
    .filter((entry: { artifactType?: unknown } | null) => entry?.artifactType === ARCHIVE_ARTIFACT)
    .slice(0, 16);
}
