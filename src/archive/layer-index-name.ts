/** The name of the file that keeps a layer's index: the same layer cut in another way is another index. */
export function layerIndexName(layerDigest: string, checkpointMiB: number): string {
  return `${layerDigest.replace(':', '-')}.${checkpointMiB}.clip`;
}

/** The checkpoint setting of layers that are indexed for archives of the Go program. */
export const LEGACY_CHECKPOINT_MIB = 1;
