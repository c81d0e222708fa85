import { statfsSync } from 'node:fs';
import { join } from 'node:path';
import type { Logger, Metrics } from '../metrics/index.js';

export interface SpanCacheOptions {
  /** Cap in bytes of span data; default the smaller of 20 GB and 20 % of the disk. */
  readonly maxBytes?: number | undefined;
  readonly log?: Logger;
  readonly metrics?: Metrics;
  /** The owner's name in the lock file. */
  readonly owner?: string;
  /** The root of the owner's control socket, for the lock file. */
  readonly root?: string;
}

export interface SpanCacheStats {
  readonly directory: string;
  readonly maxBytes: number;
  readonly usedBytes: number;
  readonly mountedLayers: number;
  readonly unmountedLayers: number;
  readonly unmountedBytes: number;
  /** False while the disk refuses writes: reads are served, nothing is cached. */
  readonly writable: boolean;
}

/** Spans that a fill may evict. Fetching ahead takes only the room of spans that no mount uses (docs/architecture.md, "Invariant 9"). */
export type EvictionRight = 'anything' | 'unmounted';

const DEFAULT_MAX_BYTES = 20e9;
const DEFAULT_DISK_SHARE = 0.2;

/** The cap of a cache for which the user names none. */
export function defaultMaxBytes(path: string): number {
  let at = path;
  for (;;) {
    try {
      const { blocks, bsize } = statfsSync(at);
      return Math.floor(Math.min(DEFAULT_MAX_BYTES, blocks * bsize * DEFAULT_DISK_SHARE));
    } catch {
      const parent = join(at, '..');
      if (parent === at) return DEFAULT_MAX_BYTES;
      at = parent;
    }
  }
}
