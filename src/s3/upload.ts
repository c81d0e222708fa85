import { createHash } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import type { S3Client } from '@aws-sdk/client-s3';
import type { S3Location } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import { clientOptions, newS3Client, type S3Credentials, s3Sdk } from './client.js';
import { s3Error, s3Name, statusOf } from './errors.js';

/** S3 takes 10,000 parts at most; larger files get larger parts. */
const MAX_PARTS = 10_000;
const MIN_PART = 8 * 1024 * 1024;
/** In memory at once: four parts. */
const PARALLEL_PARTS = 4;
/** The object's metadata: an upload of the same bytes again changes nothing. */
const SUM = 'clip-sha256';
const BEGIN_MS = 60_000;
/** What is left of a broken upload is removed within this time, or left to the bucket's lifecycle rule. */
const CLEAN_UP_MS = 10_000;

export interface UploadOptions {
  readonly credentials?: S3Credentials | null | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
  /** SHA-256 of the file, in hex. Noted beside the object; if the object there has the same one, nothing is uploaded. */
  readonly sha256?: string | undefined;
}

export interface Uploaded {
  readonly etag: string;
  /** False: the object was there already. */
  readonly changed: boolean;
}

/**
 * Uploads a file as one object, which appears when it is whole. An upload that fails or is called off leaves nothing: its parts are
 * deleted, also if it was called off while S3 was still beginning it. Once all parts are there, it is not called off any more.
 * @throws ClipError
 */
export async function uploadFile(path: string, location: S3Location, options: UploadOptions): Promise<Uploaded> {
  const { signal } = options;
  const client = await newS3Client(clientOptions(location, options.credentials));
  const file = await open(path, 'r');
  try {
    signal?.throwIfAborted();
    return await new Upload(client, file, (await file.stat()).size, location, options).run();
  } catch (error) {
    throw s3Error(error, s3Name(location), signal);
  } finally {
    await file.close();
    client.destroy();
  }
}

/** SHA-256 of a file, in hex. */
export async function sha256OfFile(path: string): Promise<string> {
  const file = await open(path, 'r');
  try {
    const hash = createHash('sha256');
    for await (const chunk of file.createReadStream({ highWaterMark: 1 << 20, autoClose: false })) hash.update(chunk);
    return hash.digest('hex');
  } finally {
    await file.close();
  }
}

class Upload {
  readonly #client: S3Client;
  readonly #file: FileHandle;
  readonly #size: number;
  readonly #to: { readonly Bucket: string; readonly Key: string };
  readonly #options: UploadOptions;
  #done = 0;

  constructor(client: S3Client, file: FileHandle, size: number, location: S3Location, options: UploadOptions) {
    this.#client = client;
    this.#file = file;
    this.#size = size;
    this.#to = { Bucket: location.bucket, Key: location.key };
    this.#options = options;
  }

  get #send(): { abortSignal?: AbortSignal } {
    const { signal } = this.#options;
    return signal === undefined ? {} : { abortSignal: signal };
  }

  get #metadata(): { Metadata?: Record<string, string> } {
    const { sha256 } = this.#options;
    return sha256 === undefined ? {} : { Metadata: { [SUM]: sha256 } };
  }

  async run(): Promise<Uploaded> {
    const there = await this.#there();
    if (there !== null) return { etag: there, changed: false };
    this.#options.onProgress?.(0, this.#size);
    const etag = this.#size <= MIN_PART ? await this.#inOne() : await this.#inParts();
    return { etag, changed: true };
  }

  /** The ETag of the object that has these bytes already. */
  async #there(): Promise<string | null> {
    const { sha256 } = this.#options;
    if (sha256 === undefined) return null;
    const { HeadObjectCommand } = await s3Sdk();
    try {
      const found = await this.#client.send(new HeadObjectCommand(this.#to), this.#send);
      const same = found.ContentLength === this.#size && found.Metadata?.[SUM] === sha256;
      return same ? (found.ETag ?? '') : null;
    } catch (error) {
      // Without the right to list the bucket, S3 answers 403 for what is not there; whether it takes an object is then seen.
      if (statusOf(error) === 404 || statusOf(error) === 403) return null;
      throw error;
    }
  }

  async #inOne(): Promise<string> {
    const { PutObjectCommand } = await s3Sdk();
    const Body = await this.#read(0, this.#size);
    const put = await this.#client.send(new PutObjectCommand({ ...this.#to, ...this.#metadata, Body }), this.#send);
    this.#advance(this.#size);
    return put.ETag ?? '';
  }

  async #inParts(): Promise<string> {
    const { CompleteMultipartUploadCommand, CreateMultipartUploadCommand } = await s3Sdk();
    // Not called off by the signal: an upload that has begun without our knowing its name could not be removed.
    const begin = new CreateMultipartUploadCommand({ ...this.#to, ...this.#metadata });
    const { UploadId } = await this.#client.send(begin, { abortSignal: AbortSignal.timeout(BEGIN_MS) });
    if (UploadId === undefined) throw new ClipError('NETWORK', 'S3 begins an upload without a name');
    const upload = { ...this.#to, UploadId };
    try {
      const Parts = await this.#parts(upload);
      this.#options.signal?.throwIfAborted();
      const whole = new CompleteMultipartUploadCommand({ ...upload, MultipartUpload: { Parts } });
      // Not called off any more: nobody would know whether the object is there.
      return (await this.#client.send(whole)).ETag ?? '';
    } catch (error) {
      await this.#remove(upload);
      throw error;
    }
  }

  async #parts(upload: {
    Bucket: string;
    Key: string;
    UploadId: string;
  }): Promise<{ ETag: string; PartNumber: number }[]> {
    const { UploadPartCommand } = await s3Sdk();
    const length = Math.max(MIN_PART, Math.ceil(this.#size / MAX_PARTS));
    const count = Math.ceil(this.#size / length);
    const parts: { ETag: string; PartNumber: number }[] = [];
    let next = 0;
    let failed = false;
    const work = async (): Promise<void> => {
      while (next < count && !failed) {
        const at = next++;
        try {
          this.#options.signal?.throwIfAborted();
          const Body = await this.#read(at * length, Math.min(length, this.#size - at * length));
          const part = new UploadPartCommand({ ...upload, PartNumber: at + 1, Body });
          const { ETag = '' } = await this.#client.send(part, this.#send);
          parts[at] = { ETag, PartNumber: at + 1 };
          this.#advance(Body.length);
        } catch (error) {
          failed = true;
          throw error;
        }
      }
    };
    // All have ended before the parts are removed: one that arrives later would stay.
    const ended = await Promise.allSettled(Array.from({ length: Math.min(count, PARALLEL_PARTS) }, work));
    const broken = ended.find((one) => one.status === 'rejected');
    if (broken !== undefined) throw broken.reason;
    return parts;
  }

  /** The first failure is the one to tell. */
  async #remove(upload: { Bucket: string; Key: string; UploadId: string }): Promise<void> {
    const { AbortMultipartUploadCommand } = await s3Sdk();
    const abortSignal = AbortSignal.timeout(CLEAN_UP_MS);
    await this.#client.send(new AbortMultipartUploadCommand(upload), { abortSignal }).catch(() => {});
  }

  async #read(position: number, length: number): Promise<Buffer> {
    const bytes = Buffer.allocUnsafeSlow(length);
    for (let done = 0; done < length; ) {
      const { bytesRead } = await this.#file.read(bytes, done, length - done, position + done);
      if (bytesRead === 0) throw new ClipError('CONFLICT', 'the file was cut off while it was uploaded');
      done += bytesRead;
    }
    return bytes;
  }

  #advance(bytes: number): void {
    this.#done += bytes;
    this.#options.onProgress?.(this.#done, this.#size);
  }
}
