import type { S3Client, S3ClientConfig } from '@aws-sdk/client-s3';
import { type ContentCache, type ContentOptions, checkHash } from './types.js';

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
    const [{ GetObjectCommand }, client] = await Promise.all([sdk(), this.#connect()]);
    const range = `bytes=${offset}-${offset + length - 1}`;
    try {
      const answer = await client.send(
        new GetObjectCommand({ Bucket: this.#options.bucket, Key: this.#key(hash), Range: range }),
        options.signal === undefined ? {} : { abortSignal: options.signal },
      );
      const bytes = await answer.Body!.transformToByteArray();
      return bytes.length === length ? bytes : null;
    } catch (error) {
      if (isMissing(error)) return null;
      throw error;
    }
  }

  async storeContent(chunks: AsyncIterable<Uint8Array>, hash: string, _options: ContentOptions): Promise<string> {
    const [{ Upload }, { Readable }, client] = await Promise.all([
      import('@aws-sdk/lib-storage'),
      import('node:stream'),
      this.#connect(),
    ]);
    // One PUT for up to a part, a multipart upload beyond: either way the object appears when it is whole.
    await new Upload({
      client,
      params: { Bucket: this.#options.bucket, Key: this.#key(hash), Body: Readable.from(chunks) },
      partSize: PART,
    }).done();
    return hash;
  }

  async has(hash: string): Promise<boolean> {
    const [{ HeadObjectCommand }, client] = await Promise.all([sdk(), this.#connect()]);
    try {
      await client.send(new HeadObjectCommand({ Bucket: this.#options.bucket, Key: this.#key(hash) }));
      return true;
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
    this.#client ??= sdk().then(({ S3Client }) => {
      const { region, endpoint, credentials } = this.#options;
      const config: S3ClientConfig = {
        region: region ?? process.env.AWS_REGION ?? 'us-east-1',
        maxAttempts: 2,
        ...(endpoint === undefined ? {} : { endpoint, forcePathStyle: true }),
        ...(credentials === undefined ? {} : { credentials }),
      };
      return new S3Client(config);
    });
    return this.#client;
  }
}

function sdk(): Promise<typeof import('@aws-sdk/client-s3')> {
  return import('@aws-sdk/client-s3');
}

function isMissing(error: unknown): boolean {
  const { name, $metadata } = error as { name?: string; $metadata?: { httpStatusCode?: number } };
  // NoSuchBucket is a 404 too, but a mistake in the configuration and not a miss.
  if (name === 'NoSuchBucket') return false;
  // 416: a shorter object than asked for.
  return $metadata?.httpStatusCode === 404 || $metadata?.httpStatusCode === 416;
}
