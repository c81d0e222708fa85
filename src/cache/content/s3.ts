import type { Readable, Transform } from 'node:stream';
import type { S3Client, S3ClientConfig } from '@aws-sdk/client-s3';
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

/** S3's errors are XML of some hundred bytes. */
const MAX_ERROR_BYTES = 64 * 1024;
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
    const [{ Upload }, { Readable }, client] = await Promise.all([
      import('@aws-sdk/lib-storage'),
      import('node:stream'),
      this.#connect(),
    ]);
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

  async has(hash: string, options: ContentOptions): Promise<boolean> {
    const [{ HeadObjectCommand }, client] = await Promise.all([sdk(), this.#connect()]);
    try {
      await client.send(
        new HeadObjectCommand({ Bucket: this.#options.bucket, Key: this.#key(hash) }),
        options.signal === undefined ? {} : { abortSignal: options.signal },
      );
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
    this.#client ??= Promise.all([sdk(), import('node:stream')]).then(([{ S3Client }, { Transform }]) => {
      const { region, endpoint, credentials } = this.#options;
      const config: S3ClientConfig = {
        region: region ?? process.env.AWS_REGION ?? 'us-east-1',
        maxAttempts: 2,
        // Readers compare with the span's digest. Other servers need not know the SDK's own checksums, nor the way it sends them.
        requestChecksumCalculation: 'WHEN_REQUIRED',
        responseChecksumValidation: 'WHEN_REQUIRED',
        ...(endpoint === undefined ? {} : { endpoint, forcePathStyle: true }),
        ...(credentials === undefined ? {} : { credentials }),
      };
      const client = new S3Client(config);
      // The SDK reads an error's body as a whole. Content is bounded where it is read.
      client.middlewareStack.add(
        (next) => async (args) => {
          const result = await next(args);
          const response = result.response as { statusCode: number; body: Readable };
          if (response.statusCode >= 300) response.body = bounded(Transform, response.body);
          return result;
        },
        { step: 'deserialize', priority: 'low', name: 'boundErrorBodies' },
      );
      return client;
    });
    return this.#client;
  }
}

/** A stream of at most MAX_ERROR_BYTES: beyond them it fails, and with it the connection. */
function bounded(Stream: typeof Transform, body: Readable): Readable {
  let length = 0;
  const limited = new Stream({
    transform(chunk: Buffer, _, done) {
      length += chunk.length;
      if (length <= MAX_ERROR_BYTES) return done(null, chunk);
      body.destroy();
      done(new Error(`an error of more than ${MAX_ERROR_BYTES} bytes`));
    },
  });
  body.on('error', (error) => limited.destroy(error));
  return body.pipe(limited);
}

/**
 * Until 2027 the SDK says on stderr, with every start, which Node version its later releases will want. Users of clip can do
 * nothing about that: engines in package.json says which versions clip runs on.
 */
function sdk(): Promise<typeof import('@aws-sdk/client-s3')> {
  process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED ??= 'true';
  return import('@aws-sdk/client-s3');
}

function isMissing(error: unknown): boolean {
  const { name, $metadata } = error as { name?: string; $metadata?: { httpStatusCode?: number } };
  // NoSuchBucket is a 404 too, but a mistake in the configuration and not a miss.
  if (name === 'NoSuchBucket') return false;
  // 416: a shorter object than asked for.
  return $metadata?.httpStatusCode === 404 || $metadata?.httpStatusCode === 416;
}
