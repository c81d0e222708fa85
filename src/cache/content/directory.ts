import { randomBytes } from 'node:crypto';
import { access, mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type ContentCache, type ContentOptions, checkHash } from './types.js';

/**
 * Calls under way at once. A share whose server is gone holds each call for good, and with it one of Node's four file threads,
 * which the rest of the process needs too (name lookups for the registry, say): the others must stay free.
 */
const MAX_CALLS = 2;

/**
 * A directory that several machines share (NFS, a bind mount, a volume): one file per content, named by its hash, appearing
 * by rename. Pruning it is left to its owner: files may vanish at any time.
 */
export class DirectoryContentCache implements ContentCache {
  #calls = 0;
  readonly #waiting = new Set<() => void>();

  constructor(readonly path: string) {}

  async getContent(hash: string, offset: number, length: number, options: ContentOptions): Promise<Uint8Array | null> {
    const path = this.#file(hash);
    return this.#inTurn(options.signal, () => this.#get(path, offset, length));
  }

  async storeContent(chunks: AsyncIterable<Uint8Array>, hash: string, options: ContentOptions): Promise<string> {
    const path = this.#file(hash);
    await this.#inTurn(options.signal, () => this.#store(chunks, path));
    return hash;
  }

  /** A file of another length is not it: a machine that lost its power may have left an empty one. */
  async has(hash: string, options: ContentOptions & { length: number }): Promise<boolean> {
    const path = this.#file(hash);
    return this.#inTurn(options.signal, () =>
      stat(path).then(
        (found) => found.size === options.length,
        () => false,
      ),
    );
  }

  /** One after the other where there are many; whoever gives up before its turn is gone. */
  async #inTurn<T>(signal: AbortSignal | undefined, call: () => Promise<T>): Promise<T> {
    while (this.#calls >= MAX_CALLS) {
      signal?.throwIfAborted();
      await new Promise<void>((resolve) => {
        const go = (): void => {
          this.#waiting.delete(go);
          signal?.removeEventListener('abort', go);
          resolve();
        };
        this.#waiting.add(go);
        signal?.addEventListener('abort', go, { once: true });
      });
    }
    signal?.throwIfAborted();
    this.#calls++;
    try {
      return await call();
    } finally {
      this.#calls--;
      const [next] = this.#waiting;
      next?.();
    }
  }

  async #get(path: string, offset: number, length: number): Promise<Uint8Array | null> {
    let file: Awaited<ReturnType<typeof open>>;
    try {
      file = await open(path, 'r');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
        await access(this.path); // a directory that is not there is not a miss but an unmounted share
        return null;
      }
      throw error;
    }
    try {
      const bytes = Buffer.allocUnsafe(length);
      for (let done = 0; done < length; ) {
        const { bytesRead } = await file.read(bytes, done, length - done, offset + done);
        if (bytesRead === 0) return null;
        done += bytesRead;
      }
      return bytes;
    } finally {
      await file.close();
    }
  }

  async #store(chunks: AsyncIterable<Uint8Array>, path: string): Promise<void> {
    await access(this.path);
    await mkdir(dirname(path), { recursive: true });
    const temporary = `${path}.${process.pid}.${randomBytes(6).toString('hex')}`;
    const file = await open(temporary, 'wx', 0o644);
    try {
      try {
        for await (const chunk of chunks) await file.writeFile(chunk);
      } finally {
        await file.close();
      }
      await rename(temporary, path);
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
  }

  #file(hash: string): string {
    return join(this.path, checkHash(hash).slice(0, 2), hash);
  }
}
