import { randomBytes } from 'node:crypto';
import { access, mkdir, open, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type ContentCache, type ContentOptions, checkHash } from './types.js';

/**
 * A directory that several machines share (NFS, a bind mount, a volume): one file per content, named by its hash, appearing
 * by rename. Pruning it is left to its owner: files may vanish at any time.
 */
export class DirectoryContentCache implements ContentCache {
  constructor(readonly path: string) {}

  async getContent(hash: string, offset: number, length: number, _options: ContentOptions): Promise<Uint8Array | null> {
    let file: Awaited<ReturnType<typeof open>>;
    try {
      file = await open(this.#file(hash), 'r');
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

  async storeContent(chunks: AsyncIterable<Uint8Array>, hash: string, _options: ContentOptions): Promise<string> {
    const path = this.#file(hash);
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
    return hash;
  }

  async has(hash: string): Promise<boolean> {
    return access(this.#file(hash)).then(
      () => true,
      () => false,
    );
  }

  #file(hash: string): string {
    return join(this.path, checkHash(hash).slice(0, 2), hash);
  }
}
