import { createHash } from 'node:crypto';
import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  futimesSync,
  openSync,
  statfsSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { encodeSpanTable, type SpanColumns } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import { punchHole } from '../linux/index.js';
import { type Logger, Metrics, silentLogger } from '../metrics/index.js';
import { CachedLayer, Occupied } from './cached-layer.js';
import { CacheDirectory, isDiskTrouble, listDirectory, readTable, SPAN_FILE, TABLE_SUFFIX } from './directory.js';
import { dataExtents } from './extents.js';
import { leastRecentlyUsed } from './lru.js';
import type { SharedLayer } from './types.js';
import { UnmountedFiles } from './unmounted.js';

export interface SpanCacheOptions {
  /** Cap in bytes of span data; default the smaller of 20 GB and 20 % of the disk. */
  readonly maxBytes?: number | undefined;
  readonly log?: Logger;
  readonly metrics?: Metrics;
  /** How the lock file names us. */
  readonly owner?: string;
  /** Where the lock file says that our control socket is. */
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

/** Whom a fill may push out. Read-ahead of every kind takes only what no mount needs (DESIGN §3.9). */
export type EvictionRight = 'anything' | 'unmounted';

const DEFAULT_MAX_BYTES = 20e9;
const DEFAULT_DISK_SHARE = 0.2;
/** Freed in one go once the cap is reached: the scan for the oldest is paid once per batch. */
const BATCH_SHARE = 1 / 32;
const MAX_BATCH = 256 * 1024 * 1024;
/** Given back to a disk that has run full under us, each time it refuses. */
const FULL_DISK_SHARE = 1 / 8;
const FIRST_PAUSE_MS = 1000;
const MAX_PAUSE_MS = 30_000;

let nextLayerId = 1;

function shared<T>(make: (buffer: SharedArrayBuffer) => T, bytes: number): T {
  return make(new SharedArrayBuffer(bytes));
}

/** The disk cache of inflated spans: one sparse file per layer and span table. See DESIGN §3.8, §3.9. */
export class SpanCache {
  readonly maxBytes: number;
  readonly #directory: CacheDirectory | null;
  readonly #path: string;
  readonly #log: Logger;
  readonly #layers = new Map<string, CachedLayer>();
  readonly #unmounted: UnmountedFiles;
  readonly #clock = shared((b) => new Int32Array(b), 4);
  readonly #counters;
  #holePunching = true;
  #pause = 0;
  #pausedUntil = 0;

  private constructor(path: string, directory: CacheDirectory | null, maxBytes: number, options: SpanCacheOptions) {
    this.#path = path;
    this.#directory = directory;
    this.maxBytes = maxBytes;
    this.#log = options.log ?? silentLogger();
    const metrics = options.metrics ?? new Metrics();
    this.#counters = {
      evictedSpans: metrics.counter('cacheEvictedSpans', 'Spans evicted from the disk cache'),
      evictedBytes: metrics.counter('cacheEvictedBytes', 'Bytes evicted from the disk cache'),
      writeErrors: metrics.counter('cacheWriteErrors', 'Cache writes the disk refused; the reads were served without'),
      readErrors: metrics.counter('cacheReadErrors', 'Cached spans the disk could not read back; they are refetched'),
      refusedFills: metrics.counter(
        'cacheRefusedFills',
        'Spans served uncached for lack of room or while the disk refuses',
      ),
    };
    metrics.gauge('cacheUsedBytes', 'Span bytes in the disk cache', () => this.usedBytes);
    metrics.gauge('cacheMaxBytes', 'Cap of the disk cache', () => this.maxBytes);
    metrics.gauge('cacheWritable', '1 unless the disk refuses writes', () => (this.#mayWrite() ? 1 : 0));
    this.#unmounted = new UnmountedFiles(directory?.spans ?? null);
    Atomics.store(this.#clock, 0, 1);
  }

  /**
   * Opens and locks the cache in `path`. A disk that is full or read-only gives a cache that stores nothing, counted and logged.
   * @throws ClipError BUSY when another process owns it, PERMISSION or SYSTEM when it cannot be used at all.
   */
  static async open(path: string, options: SpanCacheOptions = {}): Promise<SpanCache> {
    let directory: CacheDirectory | null = null;
    let trouble: unknown;
    try {
      directory = CacheDirectory.open(path, options.owner, options.root);
    } catch (error) {
      if (error instanceof ClipError) throw error;
      trouble = error;
    }
    const cache = new SpanCache(path, directory, options.maxBytes ?? defaultMaxBytes(path), options);
    if (directory === null) {
      cache.#counters.writeErrors.add();
      cache.#log.error(
        { path, error: String(trouble) },
        'the cache directory cannot be written: serving without a disk cache',
      );
    } else if (directory.discarded) {
      cache.#log.warn({ path }, 'a cache of another format was discarded');
    }
    cache.prune(cache.maxBytes);
    return cache;
  }

  get usedBytes(): number {
    return this.#unmounted.bytes + this.#mountedBytes();
  }

  /** False while the disk refuses writes. */
  get writable(): boolean {
    return this.#directory !== null && this.#mayWrite();
  }

  /** Advances with every fill; what `lastUse` is measured in. */
  tick(): number {
    return Atomics.add(this.#clock, 0, 1) + 1;
  }

  /**
   * The layer's cache file, opened or made. Each call is one mount of it, to be given back with `release`. When the disk
   * refuses, the layer has no file (fd −1) and every read of it is a miss.
   */
  layer(digest: string, table: SpanColumns): CachedLayer {
    const key = `${digest.slice(digest.indexOf(':') + 1)}.${createHash('sha256').update(encodeSpanTable(table)).digest('hex')}`;
    let layer = this.#layers.get(key);
    if (layer === undefined) {
      layer = this.#openLayer(key, table);
      this.#layers.set(key, layer);
    }
    layer.mounts++;
    return layer;
  }

  /** Gives a mount's claim back. After the last one the descriptor is closed: no worker may use `shared` any more. */
  release(layer: CachedLayer): void {
    if (this.#layers.get(layer.key) !== layer || --layer.mounts > 0) return;
    this.#layers.delete(layer.key);
    if (layer.shared.fd < 0) return;
    const bytes = fstatSync(layer.shared.fd).blocks * 512;
    touch(layer.shared.fd);
    closeSync(layer.shared.fd);
    this.#unmounted.add(layer.path, bytes);
  }

  /**
   * To be called before a span is written, which must then follow (or `writeFailed`). False: serve it without caching.
   * The caller holds the span.
   */
  reserve(layer: CachedLayer, span: number, right: EvictionRight): boolean {
    if (layer.shared.fd < 0) return false;
    const need = layer.occupied[span] === Occupied.no ? layer.length(span) : 0;
    if (!this.#mayWrite() || (need > 0 && !this.#makeRoom(need, right))) {
      this.#counters.refusedFills.add();
      return false;
    }
    layer.occupy(span, Occupied.yes);
    return true;
  }

  /** Room for a fill of `bytes` without pushing out anything a mount has: what prefetch asks before it fetches. */
  hasRoom(bytes: number): boolean {
    return this.#mayWrite() && this.usedBytes - this.#unmounted.bytes + bytes <= this.maxBytes;
  }

  /** A write of a span ended well: the disk takes writes (again). */
  writeSucceeded(): void {
    if (this.#pause === 0) return;
    this.#pause = 0;
    this.#log.info({ path: this.#path }, 'the disk cache takes writes again');
  }

  /** A write of a reserved span failed: nothing is cached for a while, longer each time. */
  writeFailed(layer: CachedLayer, span: number, code: string): void {
    this.#counters.writeErrors.add();
    layer.forget(span);
    const first = this.#pause === 0;
    if (this.#mayWrite()) {
      // Only the first failure of those under way at the same time counts towards the pause.
      this.#pause = Math.min(MAX_PAUSE_MS, Math.max(FIRST_PAUSE_MS, this.#pause * 2));
      this.#pausedUntil = performance.now() + this.#pause;
      if (code === 'ENOSPC' || code === 'EDQUOT') this.#free(this.usedBytes * FULL_DISK_SHARE, 'anything');
    }
    if (first) this.#log.error({ path: layer.path, code }, 'the disk cache refuses writes: serving without it for now');
  }

  /** A present span could not be read back: it will be fetched again. */
  readFailed(layer: CachedLayer, span: number, code: string): void {
    this.#counters.readErrors.add();
    this.#log.error({ path: layer.path, span, code }, 'a cached span cannot be read back: fetching it again');
    layer.forget(span);
  }

  /** Evicts down to `maxBytes`, or as far as the right goes; unmounted layers first. Returns the bytes freed. */
  prune(maxBytes: number, right: EvictionRight = 'anything'): number {
    const before = this.usedBytes;
    const excess = before - Math.max(0, maxBytes);
    if (excess > 0) this.#free(excess, right);
    return before - this.usedBytes;
  }

  /** Frees a span that was found damaged. The caller holds it no more; somebody else who does keeps it. */
  discard(layer: CachedLayer, span: number): void {
    if (layer.evictable(span)) this.#evict(layer, span, span + 1);
  }

  /** Names of the layer files, the longest unused first: "digest.table", both in hex. */
  files(): string[] {
    if (this.#directory === null) return [];
    const { spans } = this.#directory;
    const used = (name: string): number => statSync(join(spans, name), { throwIfNoEntry: false })?.mtimeMs ?? 0;
    return spanFiles(spans).sort((a, b) => used(a) - used(b));
  }

  /** The span table of one of `files`; null when it is not there, or not what the name says. */
  tableOf(name: string): SpanColumns | null {
    return this.#directory === null ? null : readTable(join(this.#directory.spans, name));
  }

  /** Whether something has one of `files` mounted. */
  isMounted(name: string): boolean {
    return this.#layers.has(name);
  }

  stats(): SpanCacheStats {
    return {
      directory: this.#path,
      maxBytes: this.maxBytes,
      usedBytes: this.usedBytes,
      mountedLayers: this.#layers.size,
      unmountedLayers: this.#unmounted.count,
      unmountedBytes: this.#unmounted.bytes,
      writable: this.writable,
    };
  }

  close(): void {
    for (const layer of this.#layers.values()) {
      layer.mounts = 1;
      this.release(layer);
    }
    this.#directory?.release();
  }

  #mayWrite(): boolean {
    return performance.now() >= this.#pausedUntil;
  }

  #mountedBytes(): number {
    let bytes = 0;
    for (const layer of this.#layers.values()) bytes += layer.bytes;
    return bytes;
  }

  #openLayer(key: string, table: SpanColumns): CachedLayer {
    const { count } = table;
    let fd = -1;
    let path = '';
    if (this.#directory !== null && count > 0) {
      path = join(this.#directory.spans, key);
      try {
        fd = openSpanFile(path, table);
        this.#unmounted.remove(path);
      } catch (error) {
        this.#counters.writeErrors.add();
        this.#log.error(
          { path, error: String(error) },
          'a cache file cannot be opened: its layer is served without a disk cache',
        );
      }
    }
    let offsets = table.layerOffset;
    if (!(offsets.buffer instanceof SharedArrayBuffer)) {
      offsets = shared((b) => new Float64Array(b), 8 * (count + 1));
      offsets.set(table.layerOffset);
    }
    const view: SharedLayer = {
      id: nextLayerId++,
      offsets,
      generations: shared((b) => new Int32Array(b), 4 * count),
      fd,
      lastUse: shared((b) => new Int32Array(b), 4 * count),
      clock: this.#clock,
    };
    const layer = new CachedLayer(key, path, view, table.kind === 'zstd-stream');
    if (fd >= 0) dataExtents(fd, offsets[count]!, (start, end) => layer.occupyRange(start, end));
    return layer;
  }

  #makeRoom(bytes: number, right: EvictionRight): boolean {
    const excess = this.usedBytes + bytes - this.maxBytes;
    if (excess <= 0) return true;
    if (bytes > this.maxBytes) return false;
    const batch = right === 'anything' ? Math.min(MAX_BATCH, this.maxBytes * BATCH_SHARE) : 0;
    this.#free(Math.max(excess, batch), right);
    return this.usedBytes + bytes <= this.maxBytes;
  }

  #free(bytes: number, right: EvictionRight): void {
    let left = bytes - this.#count(this.#unmounted.shrink(bytes, this.#log));
    if (right === 'unmounted' || left <= 0) return;
    for (const { layer, first, end } of leastRecentlyUsed(this.#layers.values(), left)) {
      left -= this.#evict(layer, first, end);
    }
  }

  #evict(layer: CachedLayer, first: number, end: number): number {
    const before = layer.bytes;
    const hole = layer.vacate(first, end);
    this.#counters.evictedSpans.add(end - first);
    try {
      if (!this.#holePunching) dropWhole(layer);
      else if (hole.end > hole.start) punchHole(layer.shared.fd, hole.start, hole.end - hole.start);
    } catch (error) {
      if ((error as { code?: unknown }).code === 'EOPNOTSUPP') {
        this.#holePunching = false;
        this.#log.warn({ path: this.#path }, 'this file system cannot punch holes: layers are evicted whole');
        dropWhole(layer);
      } else {
        // The bytes stay on disk uncounted until the next fill or restart; their readers already go the miss path.
        this.#counters.writeErrors.add();
        this.#log.error({ path: layer.path, error: String(error) }, 'evicted spans cannot be freed');
      }
    }
    return this.#count(before - layer.bytes);
  }

  #count(bytes: number): number {
    this.#counters.evictedBytes.add(bytes);
    return bytes;
  }
}

/** Without hole punching: everything of a layer goes, if nothing of it is held. */
function dropWhole(layer: CachedLayer): void {
  if (!layer.idle) return;
  for (let span = 0; span < layer.count; span++) if (layer.evictable(span)) layer.vacate(span, span + 1);
  ftruncateSync(layer.shared.fd, 0);
  ftruncateSync(layer.shared.fd, layer.shared.offsets[layer.count]!);
}

/** Opens or makes a layer's file, of the layer's size, with its table beside it for `clipctl cache verify`. */
function openSpanFile(path: string, table: SpanColumns): number {
  const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
  try {
    const size = table.layerOffset[table.count]!;
    if (fstatSync(fd).size !== size) ftruncateSync(fd, size);
    const encoded = encodeSpanTable(table);
    if (sizeOf(path + TABLE_SUFFIX) !== encoded.length) writeFileSync(path + TABLE_SUFFIX, encoded, { mode: 0o600 });
    touch(fd);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** Between runs a file's mtime says when it was last mounted. */
function touch(fd: number): void {
  try {
    const now = Date.now() / 1000;
    futimesSync(fd, now, now);
  } catch (error) {
    if (!isDiskTrouble(error)) throw error;
  }
}

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? -1;
}

function defaultMaxBytes(path: string): number {
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

/** The layer files of a cache directory, by name. */
export function spanFiles(spans: string): string[] {
  return listDirectory(spans).filter((name) => SPAN_FILE.test(name));
}
