import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, lstat, mkdir, open, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type ContentCache, type ContentOptions, checkHash } from './types.js';

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY } = constants;

/**
 * Calls under way at once. A share whose server is gone holds each call for good, and with it one of Node's four file threads.
 * The rest of the process needs the others, for example to look up the registry's name.
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
    checkHash(hash);
    return this.#inTurn(options.signal, () => this.#get(hash, offset, length));
  }

  async storeContent(chunks: AsyncIterable<Uint8Array>, hash: string, options: ContentOptions): Promise<string> {
    checkHash(hash);
    await this.#inTurn(options.signal, () => this.#store(chunks, hash));
    return hash;
  }

  /** A file of another length is not it: a machine that lost its power may have left an empty one. */
  async has(hash: string, options: ContentOptions & { length: number }): Promise<boolean> {
    checkHash(hash);
    const found = await this.#inTurn(options.signal, () =>
      this.#inside(hash, false, (directory) =>
        lstat(join(directory, hash)).then(
          (stat) => stat.isFile() && stat.size === options.length,
          () => false,
        ),
      ),
    );
    return found === true;
  }

  /** At most MAX_CALLS at once; a call that is given up before its turn is not made. */
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

  async #get(hash: string, offset: number, length: number): Promise<Uint8Array | null> {
    return this.#inside(hash, false, async (directory) => {
      // O_NONBLOCK: a FIFO in place of a file would hold the call for good.
      const file = await openIfThere(join(directory, hash), O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
      if (file === null) return null;
      try {
        if (!(await file.stat()).isFile()) throw new Error(`${this.#name(hash)} is not a file`);
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
    });
  }

  async #store(chunks: AsyncIterable<Uint8Array>, hash: string): Promise<void> {
    await this.#inside(hash, true, async (directory) => {
      const temporary = join(directory, `${hash}.${process.pid}.${randomBytes(6).toString('hex')}`);
      const file = await open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o644);
      try {
        try {
          for await (const chunk of chunks) await file.writeFile(chunk);
        } finally {
          await file.close();
        }
        await rename(temporary, join(directory, hash));
      } catch (error) {
        await rm(temporary, { force: true });
        throw error;
      }
      return null;
    });
  }

  /**
   * Runs `call` with the subdirectory of a hash, as a path that leads through its open descriptor: so no user who may write to the
   * share can put a symbolic link in the way between one step and the next. Each name is one component below a descriptor, and
   * is not followed if it is a link. The share itself is opened each time, because it may be unmounted and mounted again.
   * @returns null when there is no such subdirectory
   */
  async #inside<T>(hash: string, make: boolean, call: (directory: string) => Promise<T>): Promise<T | null> {
    const share = await open(this.path, O_RDONLY | O_DIRECTORY); // not a miss when it fails, but an unmounted share
    try {
      const path = join(throughDescriptor(share), hash.slice(0, 2));
      if (make) {
        await mkdir(path).catch((error: NodeJS.ErrnoException) => {
          if (error.code !== 'EEXIST') throw error;
        });
      }
      const directory = await openIfThere(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW).catch((cause: unknown) => {
        throw new Error(`${join(this.path, hash.slice(0, 2))} is not a directory`, { cause });
      });
      if (directory === null) return null;
      try {
        return await call(throughDescriptor(directory));
      } finally {
        await directory.close();
      }
    } finally {
      await share.close();
    }
  }

  /** For errors. */
  #name(hash: string): string {
    return join(this.path, hash.slice(0, 2), hash);
  }
}

function throughDescriptor({ fd }: FileHandle): string {
  return `/proc/self/fd/${fd}`;
}

/** null: there is nothing of that name. */
async function openIfThere(path: string, flags: number): Promise<FileHandle | null> {
  try {
    return await open(path, flags);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}
