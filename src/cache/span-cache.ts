import { closeSync, fstatSync, openSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { encodeSpanTable, type SpanColumns } from '../archive/index.js';
import type { SpanIndex } from '../bytes/index.js';
import { ClipError } from '../bytes/index.js';
import { punchHole, replaceDescriptor, writebackError } from '../linux/index.js';
import { type Logger, Metrics, silentLogger } from '../metrics/index.js';
import { CachedLayer, Occupied } from './cached-layer.js';
import { CacheDirectory, readTable, spanFiles } from './directory.js';
import { DiskBackoff } from './disk-backoff.js';
import { dataExtents } from './extents.js';
import { dropWhole, lendFile, openPlaceholder, openSpanFile, stampMount } from './layer-file.js';
import { leastRecentlyUsed } from './lru.js';
import { defaultMaxBytes, type EvictionRight, type SpanCacheOptions, type SpanCacheStats } from './options.js';
import { type ScratchFile, ScratchFiles } from './scratch-files.js';
import { CheckedFiles, sealFile } from './sealed-file.js';
import { newSharedLayer } from './shared-columns.js';
import { spanFileName } from './span-file-name.js';
import { UnmountedFiles } from './unmounted.js';
import { WritebackWatch } from './writeback-watch.js';

/** Bytes freed at once when the cap is reached, so that the scan for the oldest spans is made once per batch. */
const BATCH_SHARE = 1 / 32;
const MAX_BATCH = 256 * 1024 * 1024;
/** Share of the cache that is freed each time a full disk refuses a write. */
const FULL_DISK_SHARE = 1 / 8;
/** Of the cap: how much sealed layers may take while they are mounted. */
const SEALED_SHARE = 0.5;

/**
 * The disk cache of inflated spans: one sparse file per layer and span table. See docs/architecture.md, "Invariant 8", and
 * docs/architecture.md, "Invariant 9".
 */
export class SpanCache {
  readonly maxBytes: number;
  #directory: CacheDirectory | null;
  readonly #path: string;
  readonly #options: SpanCacheOptions;
  readonly #log: Logger;
  readonly #layers = new Map<string, CachedLayer>();
  #unmounted: UnmountedFiles;
  readonly #clock = new Int32Array(new SharedArrayBuffer(4));
  readonly #checked = new CheckedFiles();
  readonly #counters;
  #holePunching = true;
  /** Told of spans [first, end) of a mounted layer that are about to be freed. */
  onEvict: ((layer: CachedLayer, first: number, end: number) => void) | null = null;
  /** Writes of spans. */
  readonly #writes = new DiskBackoff();
  /** Opening the directory. */
  readonly #opens = new DiskBackoff();
  readonly #writeback = new WritebackWatch(() => this.#checkWriteback());
  readonly #scratch = new ScratchFiles();

  private constructor(path: string, directory: CacheDirectory | null, maxBytes: number, options: SpanCacheOptions) {
    this.#path = path;
    this.#directory = directory;
    this.#options = options;
    this.maxBytes = maxBytes;
    this.#log = options.log ?? silentLogger();
    const metrics = options.metrics ?? new Metrics();
    this.#counters = {
      evictedSpans: metrics.counter('cacheEvictedSpans'),
      evictedBytes: metrics.counter('cacheEvictedBytes'),
      writeErrors: metrics.counter('cacheWriteErrors'),
      readErrors: metrics.counter('cacheReadErrors'),
      refusedFills: metrics.counter('cacheRefusedFills'),
    };
    metrics.gauge('cacheUsedBytes', () => this.usedBytes);
    metrics.gauge('cacheMaxBytes', () => this.maxBytes);
    metrics.gauge('cacheWritable', () => (this.writable ? 1 : 0));
    this.#unmounted = new UnmountedFiles(directory?.writable ? directory.spans : null);
    Atomics.store(this.#clock, 0, 1);
  }

  /**
   * Opens and locks the cache in `path`. On a disk that is full or read-only the cache stores nothing until the disk recovers, and
   * reads the spans of earlier runs.
   * @throws ClipError BUSY when another process owns it, PERMISSION or SYSTEM when it cannot be used at all.
   */
  static async open(path: string, options: SpanCacheOptions = {}): Promise<SpanCache> {
    let directory: CacheDirectory | null = null;
    let trouble: unknown;
    try {
      directory = CacheDirectory.open(path, options.owner, options.root);
      trouble = directory.trouble;
    } catch (error) {
      if (error instanceof ClipError) throw error;
      trouble = error;
    }
    const cache = new SpanCache(path, directory, options.maxBytes ?? defaultMaxBytes(path), options);
    if (directory === null || !directory.writable) {
      cache.#counters.writeErrors.add();
      cache.#opens.failed();
      const what = directory === null ? 'serving without a disk cache' : 'serving what it holds, caching nothing more';
      cache.#log.error({ path, error: String(trouble) }, `the cache directory cannot be written: ${what} for now`);
    } else if (directory.discarded) {
      cache.#log.warn({ path }, 'a cache of another format was discarded');
    }
    cache.prune(cache.maxBytes);
    return cache;
  }

  get usedBytes(): number {
    return this.#unmounted.bytes + this.#mountedBytes() + this.#scratch.bytes;
  }

  /** Of mounted layers that are sealed. */
  get sealedBytes(): number {
    return this.mounted().reduce((sum, layer) => sum + (layer.sealed ? layer.bytes : 0), 0);
  }

  /** False while the disk refuses writes. */
  get writable(): boolean {
    return this.#directory?.writable === true && this.#writes.due;
  }

  /** Whether `reserve` can succeed for a span of this layer: the disk takes writes, or may be tried again. */
  mayTake(layer: CachedLayer): boolean {
    if (layer.borrowed || layer.sealed) return false;
    return layer.attached ? this.#writes.due : this.#opens.due && layer.opening.due;
  }

  /** Whether the disk takes writes for this layer. A layer without a file gets it, if the disk allows it now. */
  ready(layer: CachedLayer): boolean {
    return this.#writes.due && this.#attach(layer);
  }

  /** The unit of `lastUse`: advances with every fill. */
  tick(): number {
    return Atomics.add(this.#clock, 0, 1) + 1;
  }

  /**
   * The layer's cache file, opened or made. Each call is a claim of one mount, which `release` ends. If the disk
   * refuses, every read of the layer is a miss until it gets its file later.
   */
  layer(digest: string, table: SpanColumns): CachedLayer {
    const encoded = encodeSpanTable(table);
    const key = spanFileName(digest, encoded);
    let layer = this.#layers.get(key);
    if (layer === undefined) {
      layer = this.#openLayer(key, table, encoded);
      this.#layers.set(key, layer);
    }
    layer.mounts++;
    return layer;
  }

  /**
   * A layer whose bytes lie in the archive's own file, not in the cache's. `key` names it. The descriptor stays the caller's.
   */
  borrow(key: string, fd: number, table: SpanColumns): CachedLayer {
    let layer = this.#layers.get(key);
    if (layer === undefined) {
      const own = table.count > 0 ? openSync(`/proc/self/fd/${fd}`, 'r') : -1;
      layer = new CachedLayer(key, '', newSharedLayer(table, own, this.#clock), table, true);
      this.#layers.set(key, layer);
    }
    layer.mounts++;
    return layer;
  }

  /** Ends a mount's claim. After the last one the descriptor is closed, and no worker may use `shared` any more. */
  release(layer: CachedLayer): void {
    if (this.#layers.get(layer.key) !== layer || --layer.mounts > 0) return;
    this.#layers.delete(layer.key);
    const { fd } = layer.shared;
    if (fd < 0) return;
    if (layer.attached) {
      const code = writebackError(fd);
      if (code !== null) this.#lost(layer, code);
      const bytes = fstatSync(fd).blocks * 512;
      stampMount(fd);
      this.#checked.note(layer);
      // A sealed file cannot be mended: it makes room for a new one.
      if (layer.damaged) rmSync(this.#file(layer), { force: true });
      else this.#unmounted.add(this.#file(layer), bytes);
    }
    closeSync(fd);
  }

  /**
   * Call it before a span is written; a write or `writeFailed` must follow. False: serve the span without caching it. The caller
   * holds the span.
   */
  reserve(layer: CachedLayer, span: SpanIndex, right: EvictionRight): boolean {
    layer.damaged ||= layer.sealed; // or nothing of it would be missing
    if (layer.sealed || !this.#attach(layer)) {
      this.#counters.refusedFills.add();
      return false;
    }
    const need = layer.takesRoom(span) ? 0 : layer.length(span);
    if (!this.#writes.due || (need > 0 && !this.#makeRoom(need, right))) {
      this.#counters.refusedFills.add();
      return false;
    }
    layer.occupy(span, Occupied.yes);
    this.#writeback.wrote();
    return true;
  }

  /**
   * A file without a name, for content that is not known to be right yet. It counts as used until it is closed.
   * @returns null when `bytes` do not fit twice, there and in their layer's file, beside the spans of mounts
   */
  scratch(bytes: number): ScratchFile | null {
    if (!this.writable || !this.#makeRoom(2 * bytes, 'unmounted')) return null;
    return this.#scratch.open(this.#directory!.spans, bytes);
  }

  /** Whether `bytes` fit without evicting spans of mounts. Prefetching asks this before it fetches. */
  hasRoom(bytes: number): boolean {
    return this.#writes.due && this.usedBytes - this.#unmounted.bytes + bytes <= this.maxBytes;
  }

  /** A write of a span succeeded: the disk takes writes (again). */
  writeSucceeded(): void {
    if (this.#writes.succeeded()) this.#log.info({ path: this.#path }, 'the disk cache takes writes again');
  }

  /** A write of a reserved span failed: nothing is cached for a while, longer each time. */
  writeFailed(layer: CachedLayer, span: SpanIndex, code: string): void {
    // The written part takes room and belongs to no span: it is freed when the span is not held any more.
    layer.doubt(span);
    this.#refused(layer.path, code);
  }

  #refused(path: string, code: string): void {
    this.#counters.writeErrors.add();
    const first = !this.#writes.active;
    if (this.#writes.failed()) this.#yield(code);
    if (first) this.#log.error({ path, code }, 'the disk cache refuses writes: serving without it for now');
  }

  /** Frees some bytes on a disk that has run full. */
  #yield(code: unknown): void {
    if (code === 'ENOSPC' || code === 'EDQUOT') this.#free(this.usedBytes * FULL_DISK_SHARE, 'anything');
  }

  /**
   * Seals a complete layer, so that the kernel may read its file by itself. While it is mounted it cannot be evicted, so all of these get half
   * of the cache at most.
   */
  async seal(layer: CachedLayer): Promise<void> {
    if (!layer.complete || this.sealedBytes + layer.bytes > this.maxBytes * SEALED_SHARE) return;
    layer.sealed = true;
    try {
      await sealFile(layer.shared.fd);
    } catch (error) {
      layer.sealed = false;
      this.#lost(layer, (error as { code?: string }).code ?? String(error));
    }
  }

  /** A present span could not be read back: it will be fetched again. */
  readFailed(layer: CachedLayer, span: SpanIndex, code: string): void {
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

  /** Frees a damaged span, which the caller does not hold any more. It stays while another holder has it. */
  discard(layer: CachedLayer, span: SpanIndex): void {
    layer.damaged ||= layer.sealed;
    if (layer.evictable(span)) this.#evict(layer, span, span + 1);
  }

  /** Names of the layer files, the longest unused first: "digest.table", both in hex. */
  files(): string[] {
    if (this.#directory === null) return [];
    const { spans } = this.#directory;
    const used = (name: string): number => statSync(join(spans, name), { throwIfNoEntry: false })?.mtimeMs ?? 0;
    return spanFiles(spans).sort((a, b) => used(a) - used(b));
  }

  /** The span table of one of `files`; null if it is missing or does not match the file's name. */
  tableOf(name: string): SpanColumns | null {
    return this.#directory === null ? null : readTable(join(this.#directory.spans, name));
  }

  /** The layers that are mounted. */
  mounted(): CachedLayer[] {
    return [...this.#layers.values()];
  }

  /** Whether one of `files` is mounted. */
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
    this.#writeback.stop();
    this.#directory?.release();
  }

  #mountedBytes(): number {
    let bytes = 0;
    for (const layer of this.#layers.values()) bytes += layer.bytes;
    return bytes;
  }

  #openLayer(key: string, table: SpanColumns, encoded: Uint8Array): CachedLayer {
    const view = newSharedLayer(table, table.count > 0 ? openPlaceholder() : -1, this.#clock);
    const layer = new CachedLayer(key, join(this.#path, 'spans', key), view, table);
    if (!this.#attach(layer, encoded)) this.#lend(layer);
    return layer;
  }

  /** Where a layer's file is opened, by descriptor. Only while the directory is open. */
  #file(layer: CachedLayer): string {
    return join(this.#directory!.spans, layer.key);
  }

  /** Opens a layer's file of an earlier run on a disk that takes no writes, for reading. Each span is checked first. */
  #lend(layer: CachedLayer): void {
    if (layer.count === 0 || this.#directory === null || this.#directory.writable) return;
    try {
      lendFile(this.#file(layer), layer.shared.fd);
    } catch (error) {
      if ((error as { code?: unknown }).code !== 'ENOENT') this.#counters.readErrors.add();
      return;
    }
    this.#takeStock(layer);
  }

  #takeStock(layer: CachedLayer): void {
    const { fd, offsets } = layer.shared;
    dataExtents(fd, offsets[layer.count]!, (start, end) => layer.occupyRange(start, end));
  }

  /**
   * Opens a layer's file, if it has none and the disk allows it. True if it has one.
   * @param encoded its table, if that is at hand
   */
  #attach(layer: CachedLayer, encoded?: Uint8Array): boolean {
    if (layer.attached) return true;
    if (layer.borrowed || layer.count === 0 || !layer.opening.due || !this.#openDirectory()) return false;
    const path = this.#file(layer);
    const { shared: view } = layer;
    let lost: boolean;
    try {
      const { fd, sealed } = openSpanFile(path, view.offsets[layer.count]!, encoded ?? encodeSpanTable(layer.table));
      layer.sealed = sealed;
      try {
        lost = writebackError(fd) !== null;
        replaceDescriptor(view.fd, fd);
      } finally {
        closeSync(fd);
      }
    } catch (error) {
      this.#counters.writeErrors.add();
      if (!layer.opening.active) {
        this.#log.error(
          { path: layer.path, error: String(error) },
          'a cache file cannot be opened: its layer is served without a disk cache for now',
        );
      }
      if (layer.opening.failed()) this.#yield((error as { code?: unknown }).code);
      return false;
    }
    layer.attached = true;
    this.#unmounted.remove(path);
    this.#takeStock(layer);
    this.#checked.restore(layer);
    // Pages with an unreported error: the page cache may differ from the disk.
    if (lost) this.#drop(layer);
    if (layer.opening.succeeded()) this.#log.info({ path: layer.path }, 'a cache file can be opened again');
    return true;
  }

  /** Opens the directory if that failed before. True if it is open. */
  #openDirectory(): boolean {
    if (this.#directory?.writable) return true;
    if (!this.#opens.due) return false;
    try {
      this.#directory ??= CacheDirectory.open(this.#path, this.#options.owner, this.#options.root);
      this.#directory.makeWritable();
    } catch {
      // The failure is known already, or another process has taken the directory meanwhile. Both may pass.
      this.#counters.writeErrors.add();
      this.#opens.failed();
      return false;
    }
    this.#opens.succeeded();
    this.#unmounted = new UnmountedFiles(this.#directory.spans);
    // Open layers must not be truncated; each gets its file for writing with its next fill.
    for (const layer of this.#layers.values()) this.#unmounted.remove(this.#file(layer));
    this.#log.info({ path: this.#path }, 'the cache directory can be written again');
    this.prune(this.maxBytes);
    return true;
  }

  /**
   * Checks whether the disk has refused bytes that the kernel had accepted. Such pages count as written, and when they leave memory,
   * the old contents of the disk are read, mostly zeros.
   */
  #checkWriteback(): void {
    for (const layer of this.#layers.values()) {
      if (!layer.attached) continue;
      const code = writebackError(layer.shared.fd);
      if (code !== null) this.#lost(layer, code);
      else this.#dropDoubtful(layer);
    }
  }

  /** The kernel does not tell which pages of the file were lost, so the file is given up as a whole. */
  #lost(layer: CachedLayer, code: string): void {
    this.#drop(layer);
    this.#refused(layer.path, code);
  }

  #drop(layer: CachedLayer): void {
    for (let span = 0; span < layer.count; span++) if (layer.occupied[span] !== Occupied.no) layer.doubt(span);
    this.#dropDoubtful(layer);
  }

  /** Spans that are being filled or copied out are dropped at the next check. */
  #dropDoubtful(layer: CachedLayer): void {
    for (const span of layer.doubtful) {
      if (layer.occupied[span] !== Occupied.no) {
        if (!layer.evictable(span)) continue;
        this.#evict(layer, span, span + 1);
      }
      layer.doubtful.delete(span);
    }
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
    const writable = [...this.#layers.values()].filter((layer) => layer.attached);
    for (const { layer, first, end } of leastRecentlyUsed(writable, left)) {
      left -= this.#evict(layer, first, end);
    }
  }

  #evict(layer: CachedLayer, first: number, end: number): number {
    const before = layer.bytes;
    this.onEvict?.(layer, first, end);
    const hole = layer.vacate(first, end);
    this.#counters.evictedSpans.add(end - first);
    if (!layer.attached) return this.#count(before - layer.bytes); // read-only: it is not looked up again
    try {
      if (!this.#holePunching) dropWhole(layer);
      else if (hole.end > hole.start) punchHole(layer.shared.fd, hole.start, hole.end - hole.start);
    } catch (error) {
      if ((error as { code?: unknown }).code === 'EOPNOTSUPP') {
        this.#holePunching = false;
        this.#log.warn({ path: this.#path }, 'this file system cannot punch holes: layers are evicted whole');
        dropWhole(layer);
      } else {
        layer.holesAreHoles = false;
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
