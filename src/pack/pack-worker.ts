import { createHash } from 'node:crypto';
import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { parentPort } from 'node:worker_threads';
import { Crc64 } from '../bytes/index.js';
import { BLOCK_SUM_SIZE, BLOCK_TYPE_FILE, BLOCK_TYPE_SIZE } from '../legacy/index.js';
import type { PackColumns, PackJob, PackResult, UnpackItem } from './pack-protocol.js';

/** Files are read and written in pieces of this size; small ones share one write. */
const BUFFER_BYTES = 1 << 20;
const buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);

/** System calls, which packing has no use for. */
let linux: typeof import('../linux/index.js');

/** A file that cannot be packed or unpacked; the others can. */
class Problem extends Error {}

/** What is to be written to the archive, gathered as long as it is contiguous. */
class Output {
  #used = 0;
  #position = 0;

  constructor(readonly fd: number) {}

  /** Room for the next bytes at this place of the archive. */
  room(position: number, want: number): Buffer {
    if (this.#used > 0 && (position !== this.#position + this.#used || this.#used === BUFFER_BYTES)) this.flush();
    if (this.#used === 0) this.#position = position;
    return buffer.subarray(this.#used, Math.min(BUFFER_BYTES, this.#used + want));
  }

  filled(count: number): void {
    this.#used += count;
  }

  put(position: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const room = this.room(position + done, bytes.length - done);
      room.set(bytes.subarray(done, done + room.length));
      this.filled(room.length);
      done += room.length;
    }
  }

  flush(): void {
    for (let done = 0; done < this.#used; ) {
      done += writeSync(this.fd, buffer, done, this.#used - done, this.#position + done);
    }
    this.#used = 0;
  }
}

const TYPE = Uint8Array.of(BLOCK_TYPE_FILE);
const sum = Buffer.alloc(BLOCK_SUM_SIZE);

/** One file of a job. `path` is without its NUL. @returns the SHA-256 of its content */
function pack(files: PackColumns, i: number, path: Buffer, out: Output): Uint8Array {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    throw new Problem(`cannot be read: ${(error as NodeJS.ErrnoException).code}`);
  }
  try {
    const { dev, ino } = fstatSync(fd, { bigint: true });
    if (dev !== files.dev[i] || ino !== files.ino[i]) throw new Problem('was replaced while the tree was packed');
    const size = files.size[i]!;
    const start = files.position[i]! + BLOCK_TYPE_SIZE;
    out.put(start - BLOCK_TYPE_SIZE, TYPE);
    const crc = new Crc64();
    const sha = createHash('sha256');
    for (let done = 0, more = true; more; ) {
      const left = size - done;
      // One byte more: the same call tells whether the file has grown.
      const room = out.room(start + done, left + 1);
      const count = readSync(fd, room, 0, room.length, null);
      if (count > left) throw new Problem('grew while it was packed');
      if (count === 0 && left > 0) throw new Problem(`shrank to ${done} bytes while it was packed`);
      const view = room.subarray(0, count);
      sha.update(view);
      crc.update(view);
      out.filled(count);
      done += count;
      more = done < size || count === room.length;
    }
    sum.writeBigUInt64BE(crc.digest());
    out.put(start + size, sum);
    return sha.digest();
  } finally {
    closeSync(fd);
  }
}

/** The content is checked before the file gets its mode: a damaged one is removed again. */
function unpack(item: UnpackItem, archive: number, own: boolean): void {
  const path = Buffer.from(item.path);
  const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
  const fd = openSync(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
  try {
    const crc = new Crc64();
    const stored = Math.min(item.length, item.size);
    for (let done = 0; done < item.length; ) {
      const want = Math.min(BUFFER_BYTES, item.length - done);
      const count = readSync(archive, buffer, 0, want, item.start + done);
      if (count === 0) throw new Problem('the archive ends in its data');
      crc.update(buffer.subarray(0, count));
      const useful = Math.max(0, Math.min(count, stored - done));
      for (let at = 0; at < useful; ) at += writeSync(fd, buffer, at, useful - at);
      done += count;
    }
    if (item.length > 0) {
      const sum = Buffer.alloc(BLOCK_SUM_SIZE);
      if (
        readSync(archive, sum, 0, sum.length, item.start + item.length) < sum.length ||
        sum.readBigUInt64BE() !== crc.digest()
      ) {
        throw new Problem('its data is damaged: the CRC-64 differs');
      }
    }
    if (item.size > stored) ftruncateSync(fd, item.size);
    if (own) fchownSync(fd, item.uid, item.gid);
    // After the owner: changing it takes set-uid bits away.
    fchmodSync(fd, item.mode & 0o7777);
    linux.setOpenFileTime(fd, item.mtime, item.mtimeNsec);
  } catch (error) {
    if (error instanceof Problem) unlinkSync(path);
    throw error;
  } finally {
    closeSync(fd);
  }
}

function perform(job: PackJob): PackResult {
  const hashes = new Uint8Array(job.type === 'pack' ? 32 * job.files.size.length : 0);
  const problems: { index: number; detail: string }[] = [];
  let bytes = 0;
  const attempt = (index: number, size: number, work: () => void): void => {
    try {
      work();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      problems.push({ index, detail: error.message });
    }
    bytes += size;
  };
  try {
    if (job.type === 'pack') {
      const out = new Output(job.out);
      const { buffer, byteOffset, byteLength } = job.files.paths;
      const paths = Buffer.from(buffer, byteOffset, byteLength);
      let from = 0;
      for (const [i, size] of job.files.size.entries()) {
        const path = paths.subarray(from, paths.indexOf(0, from));
        from += path.length + 1;
        attempt(i, size, () => hashes.set(pack(job.files, i, path, out), 32 * i));
      }
      out.flush();
    } else for (const item of job.items) attempt(item.index, item.size, () => unpack(item, job.archive, job.own));
    return { hashes, bytes, problems, failure: null };
  } catch (error) {
    const { code = 'SYSTEM', message } = error as NodeJS.ErrnoException;
    return { hashes, bytes, problems, failure: { code, detail: message } };
  }
}

/** null: there is no more to do. */
parentPort!.on('message', async (job: PackJob | null) => {
  if (job === null) return parentPort!.close();
  if (job.type === 'unpack') linux ??= await import('../linux/index.js');
  parentPort!.postMessage(perform(job));
});
