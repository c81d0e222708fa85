import { randomBytes } from 'node:crypto';
import { closeSync, openSync, read, unlinkSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { BlobTarget, ImageSource } from './source.js';

const readAt = promisify(read);

interface KeptLayer {
  readonly fd: number;
  bytes: number;
  /** All of it is there. */
  complete: boolean;
}

/**
 * Layers that an index build has read, kept for the reader that comes after it: a registry then sends each byte once. They lie in files
 * without a name, which go with this process however it ends. Like any source's, their bytes are checked by their reader.
 */
export class KeptLayers {
  readonly #layers = new Map<string, KeptLayer>();

  /**
   * @param directory on a disk with room for the image; it exists when the first layer comes
   * @param onDropped a layer could not be kept, and will be fetched again
   */
  constructor(
    private readonly directory: string,
    private readonly onDropped: (why: string) => void,
  ) {}

  /** A source that keeps what is scanned, and reads ranges from what is kept. */
  wrap(source: ImageSource): ImageSource {
    const own: Pick<ImageSource, 'fetchInto' | 'scanBlob' | 'takesParts'> = {
      takesParts: (digest) => this.#layers.get(digest)?.complete !== true && source.takesParts?.(digest) === true,
      fetchInto: (digest, start, target, options) => {
        const kept = this.#layers.get(digest);
        return kept?.complete ? fill(kept, start, target) : source.fetchInto(digest, start, target, options);
      },
      scanBlob: async (digest, size, target, options) => {
        const kept = this.#begin(digest);
        await source.scanBlob(digest, size, kept === null ? target : this.#tee(digest, kept, target), options);
        if (kept !== null) kept.complete = kept.bytes === size;
      },
    };
    return new Proxy(source, {
      get: (_source, name) => {
        if (name === 'fetchInto' || name === 'scanBlob' || name === 'takesParts') return own[name];
        const value: unknown = Reflect.get(source, name, source);
        return typeof value === 'function' ? value.bind(source) : value;
      },
    });
  }

  #begin(digest: string): KeptLayer | null {
    this.#drop(digest);
    const path = join(this.directory, `.layer-${randomBytes(8).toString('hex')}`);
    try {
      const kept = { fd: openSync(path, 'wx+', 0o600), bytes: 0, complete: false };
      unlinkSync(path);
      this.#layers.set(digest, kept);
      return kept;
    } catch (error) {
      this.onDropped(`layer ${digest} cannot be kept in ${this.directory}: ${(error as Error).message}`);
      return null;
    }
  }

  /** Before the memory is passed on, because the scan's own reader may fill it anew. */
  #tee(digest: string, kept: KeptLayer, target: BlobTarget): BlobTarget {
    return {
      room: () => target.room(),
      filled: (bytes) => {
        if (this.#layers.get(digest) === kept) this.#append(digest, kept, target.room().subarray(0, bytes));
        return target.filled(bytes);
      },
    };
  }

  #append(digest: string, kept: KeptLayer, bytes: Uint8Array): void {
    try {
      for (let at = 0; at < bytes.length; ) {
        const written = writeSync(kept.fd, bytes, at, bytes.length - at, kept.bytes);
        at += written;
        kept.bytes += written;
      }
    } catch (error) {
      this.#drop(digest);
      this.onDropped(`layer ${digest} cannot be kept in ${this.directory}: ${(error as Error).message}`);
    }
  }

  #drop(digest: string): void {
    const kept = this.#layers.get(digest);
    this.#layers.delete(digest);
    if (kept !== undefined) closeSync(kept.fd);
  }

  /** The files go. */
  close(): void {
    for (const digest of [...this.#layers.keys()]) this.#drop(digest);
  }
}

async function fill({ fd }: KeptLayer, start: number, target: Uint8Array): Promise<void> {
  for (let at = 0; at < target.length; ) {
    const { bytesRead } = await readAt(fd, target, at, target.length - at, start + at);
    if (bytesRead === 0) throw new Error(`a kept layer ends at ${start + at}`);
    at += bytesRead;
  }
}
