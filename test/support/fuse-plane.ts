import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type FuseMountSpec, FusePool, type FusePoolOptions, replyError } from '../../src/fuse/index.js';
import { closeFd, mountFuse, openFuseDevice, readMountInfo, unmount } from '../../src/linux/index.js';
import type { SharedLayer } from '../../src/spans/index.js';
import { buildErofs } from './planes.js';

/** A copy in shared memory, as the workers take it. */
export function sharedCopy(bytes: Uint8Array): SharedArrayBuffer {
  const shared = new SharedArrayBuffer(bytes.length);
  new Uint8Array(shared).set(bytes);
  return shared;
}

/** A layer whose cache file is `fd`, cut into spans of one size; all present, or none. */
export function sharedLayer(id: number, fd: number, size: number, spanBytes: number, present = true): SharedLayer {
  const count = Math.max(1, Math.ceil(size / spanBytes));
  const int32 = (length: number): Int32Array => new Int32Array(new SharedArrayBuffer(length * 4));
  const offsets = new Float64Array(new SharedArrayBuffer((count + 1) * 8));
  for (let i = 0; i <= count; i++) offsets[i] = Math.min(i * spanBytes, size);
  const generations = int32(count).fill(present ? 1 : 0);
  return { id: id as SharedLayer['id'], fd, offsets, generations, lastUse: int32(count), clock: int32(1) };
}

export interface FusePlaneOptions extends Partial<FusePoolOptions> {
  readonly spanBytes?: number;
  /** Whether the spans are in the cache from the start. Default true. */
  readonly present?: boolean;
}

/** Layers (uncompressed tars, base first) served by a FusePool of this process, their cache files complete. */
export class FusePlane {
  readonly directory = mkdtempSync(join(tmpdir(), 'clip-fuse-'));
  readonly mountPoint = join(this.directory, 'mnt');
  readonly fd = openFuseDevice();
  readonly gone: Promise<string>;
  readonly layers: SharedLayer[];
  readonly faults: string[] = [];
  readonly pool: FusePool;
  readonly #tree: SharedArrayBuffer;
  readonly #placement: FuseMountSpec['placement'];

  constructor(layers: readonly Uint8Array[], options: FusePlaneOptions = {}) {
    mkdirSync(this.mountPoint);
    const { image, placement } = buildErofs(layers);
    this.#tree = sharedCopy(image);
    this.#placement = placement;
    this.layers = layers.map((layer, i) => {
      const path = join(this.directory, `layer${i}`);
      writeFileSync(path, layer);
      return sharedLayer(i, openSync(path, 'r'), layer.length, options.spanBytes ?? 65536, options.present ?? true);
    });
    let gone = (_: string): void => {};
    this.gone = new Promise((resolve) => {
      gone = resolve;
    });
    this.pool = new FusePool({
      onMiss: (miss) => replyError(this.fd, miss.unique, 5),
      onInterrupt: () => false,
      onGone: (_, reason) => gone(reason),
      onFault: (_, cause) => this.faults.push(cause),
      ...options,
    });
  }

  async mount(): Promise<this> {
    try {
      await this.pool.complete();
      mountFuse({ fd: this.fd, target: this.mountPoint, source: 'clip-test', subtype: 'clip', suid: true, dev: true });
      await this.pool.attach(this.spec());
      return this;
    } catch (error) {
      if (readMountInfo().some((mount) => mount.mountPoint === this.mountPoint)) unmount(this.mountPoint, 'lazy');
      await this.close();
      throw error;
    }
  }

  spec(resumed = false): FuseMountSpec {
    return { id: 1, fd: this.fd, tree: this.#tree, layers: this.layers, placement: this.#placement, resumed };
  }

  async close(): Promise<void> {
    if (readMountInfo().some((mount) => mount.mountPoint === this.mountPoint)) {
      unmount(this.mountPoint, 'lazy');
      await this.gone;
    }
    await this.pool.detach(1);
    await this.pool.close();
    closeFd(this.fd);
    for (const layer of this.layers) closeSync(layer.fd);
    rmSync(this.directory, { recursive: true, force: true });
  }
}
