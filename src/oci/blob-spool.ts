import { createHash, randomBytes } from 'node:crypto';
import { type FileHandle, open, unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ClipError } from '../bytes/index.js';
import { Body } from './body.js';
import { TransientError } from './errors.js';
import type { Response } from './transport.js';

/** Of one read from the file. */
const READ_BYTES = 256 * 1024;

/** On a disk, not in memory: blobs are large. /var/tmp is the directory for that (FHS 3.0, 5.15). */
function spoolDirectory(): string {
  return process.env.TMPDIR === undefined ? '/var/tmp' : tmpdir();
}

/**
 * A blob of a server that has no ranges: fetched once as a whole into a file without a name, and read from there, also while it
 * still comes. Its digest is taken as it passes; spans are compared with theirs by their readers as always.
 */
export class BlobSpool {
  readonly #digest: string;
  readonly #size: number;
  readonly #response: Response;
  readonly #file: Promise<FileHandle>;
  #written = 0;
  #error: Error | null = null;
  #waiting: (() => void)[] = [];

  constructor(response: Response, digest: string, size: number) {
    this.#response = response;
    this.#digest = digest;
    this.#size = size;
    this.#file = openNameless();
    this.#fill().then(
      () => this.#notify(),
      (error: Error) => {
        this.#error = error;
        response.body.cancel();
        this.#notify();
      },
    );
  }

  /** It will give nothing more: the blob is to be fetched anew. */
  get failed(): boolean {
    return this.#error !== null;
  }

  /** A response with bytes [start, end), which come as they are there. */
  read(start: number, end: number): Response {
    let wanted = true;
    let paused: (() => void) | null = null;
    let isPaused = false;
    const resume = (): void => {
      isPaused = false;
      paused?.();
      paused = null;
    };
    const body = new Body({
      pause: () => {
        isPaused = true;
      },
      resume,
      abort: () => {
        wanted = false;
        resume();
      },
    });
    const pump = async (): Promise<void> => {
      const file = await this.#file;
      for (let at = start; at < end && wanted; ) {
        if (isPaused) await new Promise<void>((go) => (paused = go));
        const there = Math.min(end, this.#written) - at;
        if (there <= 0) {
          if (this.#error !== null) throw this.#error;
          await new Promise<void>((go) => this.#waiting.push(go));
          continue;
        }
        const chunk = Buffer.allocUnsafe(Math.min(READ_BYTES, there));
        const { bytesRead } = await file.read(chunk, 0, chunk.length, at);
        if (bytesRead === 0) throw new Error('the spooled blob was cut');
        at += bytesRead;
        body.push(chunk.subarray(0, bytesRead));
      }
    };
    pump().then(
      () => body.end(null),
      (error: Error) => body.end(error),
    );
    return { ...this.#response, body };
  }

  async #fill(): Promise<void> {
    const file = await this.#file;
    const hash = createHash(this.#digest.slice(0, this.#digest.indexOf(':')));
    const what = `blob ${this.#digest}`;
    for await (const chunk of this.#response.body) {
      if (this.#written + chunk.length > this.#size) {
        throw new ClipError(
          'DIGEST_MISMATCH',
          `${this.#response.url.host} sends more than the ${this.#size} bytes of ${what}`,
        );
      }
      hash.update(chunk);
      await file.write(chunk, 0, chunk.length, this.#written);
      this.#written += chunk.length;
      this.#notify();
    }
    if (this.#written < this.#size) {
      throw new TransientError(`${what} ended at byte ${this.#written}, not ${this.#size}`, {});
    }
    if (`${this.#digest.split(':')[0]}:${hash.digest('hex')}` !== this.#digest) {
      throw new TransientError(`${this.#response.url.host} sends other bytes than those of ${what}`, {});
    }
  }

  #notify(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const go of waiting) go();
  }

  async close(): Promise<void> {
    this.#error ??= new ClipError('ABORTED', `blob ${this.#digest} is not needed any more`);
    this.#response.body.cancel();
    this.#notify();
    await (await this.#file.catch(() => null))?.close();
  }
}

/** Only this process can open it, and it goes with its last descriptor. */
async function openNameless(): Promise<FileHandle> {
  const path = join(spoolDirectory(), `clip-spool-${randomBytes(12).toString('hex')}`);
  const file = await open(path, 'wx+', 0o600);
  await unlink(path);
  return file;
}
