import type { LayerContents } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import type { LayerDescriptor } from '../oci/index.js';
import type { FoundNames, LayerReferences } from '../startup/index.js';
import type { EntryColumns } from '../tar/index.js';
import type { FileDigests } from './lane-protocol.js';

/** All that an archive needs of a layer. It depends on the layer and the checkpoint setting, not on the image around it. */
export interface IndexedLayer {
  readonly contents: LayerContents;
  readonly entries: EntryColumns;
  readonly uncompressedSize: number;
  /** Null unless files were hashed. */
  readonly files: FileDigests | null;
  /** "sha256:…" of the tar; null unless files were hashed. */
  readonly diffId: string | null;
  readonly references: LayerReferences;
  readonly names: readonly FoundNames[];
  readonly warnings: readonly string[];
}

/**
 * Compares a layer's index with the image that it is used for, and tells its warnings.
 * @throws ClipError DIGEST_MISMATCH when its tar is not the one that the image's config names
 */
export function useInImage(
  { digest, diffId }: LayerDescriptor,
  layer: IndexedLayer,
  hashes: boolean,
  onWarning: (warning: string) => void,
): void {
  for (const warning of layer.warnings) onWarning(`layer ${digest}: ${warning}`);
  if (!hashes) return;
  const skipped = layer.files?.skipped ?? 0;
  if (skipped > 0) onWarning(`layer ${digest}: ${skipped} sparse files are too large to be hashed`);
  if (!diffId.startsWith('sha256:') || layer.diffId === diffId) return;
  throw new ClipError('DIGEST_MISMATCH', `layer ${digest}: its tar does not have the digest ${diffId} of the config`, {
    hint: 'layer and config do not belong together: build and push the image again',
  });
}
