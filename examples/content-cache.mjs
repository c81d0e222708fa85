// A content cache of one's own: here spans in this program's memory, the least recently used of which make way. Two mounts with
// empty disk caches show it: the second one asks the registry for nothing that the first one fetched.
// Usage: node content-cache.mjs ARCHIVE DIRECTORY FILE
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { mountArchive } from 'clipfs';

/** @implements {import('clipfs').ContentCache} */
class MemoryCache {
  #contents = new Map(); // in the order of their last use
  #bytes = 0;

  constructor(maxBytes) {
    this.maxBytes = maxBytes;
  }

  /** null is a miss. A rejection would say that the cache is unavailable, and it would not be asked for a while. */
  async getContent(hash, offset, length) {
    const content = this.#contents.get(hash);
    if (content === undefined || offset + length > content.length) return null;
    this.#contents.delete(hash);
    this.#contents.set(hash, content);
    return content.subarray(offset, offset + length);
  }

  /** Stores all of it or nothing. The stored bytes are not trusted: each reader compares them with the archive. */
  async storeContent(chunks, hash) {
    const parts = [];
    for await (const chunk of chunks) parts.push(chunk);
    const content = Buffer.concat(parts);
    this.#bytes += content.length - (this.#contents.get(hash)?.length ?? 0);
    this.#contents.delete(hash);
    this.#contents.set(hash, content);
    for (const [oldest, { length }] of this.#contents) {
      if (this.#bytes <= this.maxBytes) break;
      this.#contents.delete(oldest);
      this.#bytes -= length;
    }
    return hash;
  }
}

const [archivePath, mountPoint, file] = process.argv.slice(2);
const contentCache = new MemoryCache(256 * 1024 * 1024);

for (const name of ['first', 'second']) {
  const cachePath = await mkdtemp(join(tmpdir(), 'clip-example-'));
  const mount = mountArchive({ archivePath, mountPoint, cachePath, contentCache });
  await mount.start();
  try {
    // Asynchronously: a synchronous read would block the thread that answers for the cache.
    const { length } = await readFile(join(mountPoint, file));
    let { counters } = await mount.stats();
    // Spans are stored in the background, after their readers have been answered.
    while (counters.contentStored + counters.contentDropped < counters.spansFetched) {
      await sleep(20);
      ({ counters } = await mount.stats());
    }
    const { requests, contentHits, contentStored, contentTimeouts } = counters;
    console.log(`${name} mount: ${length} bytes read, ${requests} requests to the registry,`);
    console.log(`  ${contentHits} spans from the content cache, ${contentStored} stored in it`);
    // A reader waits 50 ms for the cache, then the registry is asked.
    if (contentTimeouts > 0) console.log(`  (${contentTimeouts} answers of the cache came too late)`);
  } finally {
    await mount.unmount();
    await rm(cachePath, { recursive: true });
  }
}
