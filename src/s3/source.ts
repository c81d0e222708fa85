import type { S3Client } from '@aws-sdk/client-s3';
import type { S3Location } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import { clientOptions, newS3Client, type S3Credentials, s3Sdk } from './client.js';
import { s3Error, s3Name } from './errors.js';

/** A range whose connection breaks is resumed where it broke. This is the number of tries without a byte in between. */
const MAX_BREAKS = 4;
const BREAK_PAUSE_MS = 200;

/** One object of a bucket, read by exact ranges. Nothing is checked here: the reader of an archive checks its blocks. */
export class S3Source {
  readonly counters = { requests: 0, bytes: 0, retries: 0, redirects: 0, tokens: 0 };
  readonly #location: S3Location;
  readonly #credentials: S3Credentials | null | undefined;
  #client: Promise<S3Client> | null = null;
  /** Of the object as it was first seen: one that is replaced meanwhile must not be mixed with it. */
  #etag: string | undefined;

  constructor(location: S3Location, credentials: S3Credentials | null | undefined) {
    this.#location = location;
    this.#credentials = credentials;
  }

  get name(): string {
    return s3Name(this.#location);
  }

  #connect(): Promise<S3Client> {
    this.#client ??= newS3Client(clientOptions(this.#location, this.#credentials)).catch((error: unknown) => {
      this.#client = null; // the next read tries again
      throw error;
    });
    return this.#client;
  }

  /** Loads the SDK. */
  async load(): Promise<void> {
    await this.#connect();
  }

  /**
   * Fills `target` with the object's bytes from `start` on.
   * @throws ClipError NOT_FOUND, UNAUTHORIZED, NETWORK, CONFLICT (the object was replaced), ABORTED
   */
  async fetchInto(
    _digest: string,
    start: number,
    target: Uint8Array,
    options: {
      readonly signal?: AbortSignal | undefined;
      readonly onBytes?: ((received: number) => Promise<void> | null) | undefined;
      readonly onOrigin?: ((origin: 's3') => void) | undefined;
    } = {},
  ): Promise<void> {
    const { signal, onBytes } = options;
    options.onOrigin?.('s3');
    let done = 0;
    for (let breaks = 0; done < target.length; ) {
      const before = done;
      try {
        for await (const chunk of await this.#range(start + done, start + target.length, signal)) {
          if (chunk.length > target.length - done)
            throw new ClipError('NETWORK', `${this.name}: more bytes than asked for`);
          target.set(chunk, done);
          done += chunk.length;
          this.counters.bytes += chunk.length;
          await onBytes?.(done);
        }
        if (done < target.length) throw new Error('the connection ended early');
      } catch (error) {
        if (done > before) breaks = 0;
        const failure = s3Error(error, this.name, signal);
        if (failure.code !== 'NETWORK' || ++breaks >= MAX_BREAKS || (error as { $metadata?: unknown }).$metadata) {
          throw failure;
        }
        this.counters.retries++;
        await new Promise((resolve) => setTimeout(resolve, BREAK_PAUSE_MS * breaks));
      }
    }
  }

  /** A range in chunks. */
  async fetchBlob(
    digest: string,
    range: { readonly start: number; readonly end?: number },
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<AsyncIterable<Uint8Array>> {
    const end = range.end ?? (await this.size(options.signal));
    const target = new Uint8Array(end - range.start);
    await this.fetchInto(digest, range.start, target, options);
    return once(target);
  }

  /** The object's length. */
  async size(signal?: AbortSignal): Promise<number> {
    return (await this.look(signal)).size;
  }

  /** Length and version (its ETag) of the object. From now on, only bytes of that version are read. */
  async look(signal?: AbortSignal): Promise<{ size: number; version: string }> {
    const [{ HeadObjectCommand }, client] = await Promise.all([s3Sdk(), this.#connect()]);
    try {
      const { bucket, key } = this.#location;
      this.counters.requests++;
      const answer = await client.send(new HeadObjectCommand({ Bucket: bucket, Key: key }), send(signal));
      this.#etag = answer.ETag;
      const version = answer.ETag ?? answer.LastModified?.toISOString() ?? '';
      return { size: answer.ContentLength ?? 0, version };
    } catch (error) {
      throw s3Error(error, this.name, signal);
    }
  }

  async #range(start: number, end: number, signal: AbortSignal | undefined): Promise<AsyncIterable<Uint8Array>> {
    const [{ GetObjectCommand }, client] = await Promise.all([s3Sdk(), this.#connect()]);
    const { bucket, key } = this.#location;
    const answer = await client.send(
      new GetObjectCommand({ Bucket: bucket, Key: key, Range: `bytes=${start}-${end - 1}` }),
      send(signal),
    );
    this.counters.requests++;
    const body = answer.Body as AsyncIterable<Uint8Array> & { destroy?(): void };
    const etag = answer.ETag;
    this.#etag ??= etag;
    if (etag !== this.#etag) {
      body.destroy?.();
      throw new ClipError('CONFLICT', `${this.name} was replaced while it was read`, {
        hint: 'read it anew: mount its archive again',
      });
    }
    if (answer.ContentRange !== undefined && !answer.ContentRange.startsWith(`bytes ${start}-`)) {
      body.destroy?.();
      throw new ClipError(
        'NETWORK',
        `${this.name}: asked for bytes from ${start}, the answer is ${answer.ContentRange}`,
      );
    }
    return body;
  }

  async close(): Promise<void> {
    (await this.#client?.catch(() => null))?.destroy();
    this.#client = null;
  }
}

function send(signal: AbortSignal | undefined): { abortSignal?: AbortSignal } {
  return signal === undefined ? {} : { abortSignal: signal };
}

async function* once(bytes: Uint8Array): AsyncIterable<Uint8Array> {
  yield bytes;
}
