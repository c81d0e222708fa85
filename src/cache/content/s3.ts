import type { Readable } from 'node:stream';
import type { S3Client } from '@aws-sdk/client-s3';
import { newS3Client, s3Sdk, s3Uploads } from '../../s3/index.js';
import { type ContentCache, type ContentOptions, checkHash, collect } from './types.js';

export interface S3Options {
  readonly bucket: string;
  /** Put before each hash; "" or ending in "/". */
  readonly prefix?: string;
  readonly region?: string;
  /** For servers other than Amazon's; addressed by path. */
  readonly endpoint?: string;
  /** Default: the SDK's chain (environment, profile, instance role). */
  readonly credentials?: {
    readonly accessKeyId: string;
    readonly secretAccessKey: string;
    readonly sessionToken?: string;
  };
}

/** Larger content goes up in parts of this size. */
const PART = 8 * 1024 * 1024;

/** An S3 bucket: one object per content, `prefix` + first two digits + "/" + hash. */
export class S3ContentCache implements ContentCache {
  readonly #options: S3Options;
  #client: Promise<S3Client> | null = null;

  constructor(options: S3Options) {
    this.#options = options;
  }

  async getContent(hash: string, offset: number, length: number, options: ContentOptions): Promise<Uint8Array | null> {
    const [{ GetObjectCommand }, client] = await Promise.all([s3Sdk(), this.#connect()]);
    const range = `bytes=${offset}-${offset + length - 1}`;
    try {
      const answer = await client.send(
        new GetObjectCommand({ Bucket: this.#options.bucket, Key: this.#key(hash), Range: range }),
        options.signal === undefined ? {} : { abortSignal: options.signal },
      );
      const bytes = await collect(answer.Body as Readable, length);
      return bytes.length === length ? bytes : null;
    } catch (error) {
      if (isMissing(error)) return null;
      throw error;
    }
  }

  /** Loads the SDK, has it find its credentials (an instance role takes a while) and opens the first connection. */
  async connect(): Promise<void> {
    await this.has('0'.repeat(64), { routingKey: '' });
  }

  async storeContent(chunks: AsyncIterable<Uint8Array>, hash: string, options: ContentOptions): Promise<string> {
    const [{ Upload }, { Readable }, client] = await Promise.all([s3Uploads(), import('node:stream'), this.#connect()]);
    // One PUT for up to a part, a multipart upload beyond: either way the object appears when it is whole.
    const upload = new Upload({
      client,
      params: { Bucket: this.#options.bucket, Key: this.#key(hash), Body: Readable.from(chunks) },
      partSize: PART,
    });
    const abort = (): void => void upload.abort();
    options.signal?.addEventListener('abort', abort, { once: true });
    try {
      await upload.done();
    } finally {
      options.signal?.removeEventListener('abort', abort);
    }
    return hash;
  }

  /** An object of another length is not it: other programs may write to the bucket, too. */
  async has(hash: string, options: ContentOptions & { length?: number }): Promise<boolean> {
    const [{ HeadObjectCommand }, client] = await Promise.all([s3Sdk(), this.#connect()]);
    try {
      const found = await client.send(
        new HeadObjectCommand({ Bucket: this.#options.bucket, Key: this.#key(hash) }),
        options.signal === undefined ? {} : { abortSignal: options.signal },
      );
      return options.length === undefined || found.ContentLength === options.length;
    } catch (error) {
      if (isMissing(error)) return false;
      throw error;
    }
  }

  async close(): Promise<void> {
    (await this.#client?.catch(() => null))?.destroy();
    this.#client = null;
  }

  #key(hash: string): string {
    return `${this.#options.prefix ?? ''}${checkHash(hash).slice(0, 2)}/${hash}`;
  }

  #connect(): Promise<S3Client> {
    this.#client ??= newS3Client(this.#options);
    return this.#client;
  }
}

function isMissing(error: unknown): boolean {
  const { name, $metadata } = error as { name?: string; $metadata?: { httpStatusCode?: number } };
  // NoSuchBucket is a 404 too, but a mistake in the configuration and not a miss.
  if (name === 'NoSuchBucket') return false;
  // 416: a shorter object than asked for.
  return $metadata?.httpStatusCode === 404 || $metadata?.httpStatusCode === 416;
}
