import { createReadStream } from 'node:fs';
import type { S3Location } from '../archive/index.js';
import { clientOptions, newS3Client, type S3Credentials, s3Uploads } from './client.js';
import { s3Error, s3Name } from './errors.js';

/** S3 takes 10,000 parts at most; larger files get larger parts. */
const MAX_PARTS = 10_000;
const MIN_PART = 8 * 1024 * 1024;
/** In memory at once: four parts. */
const PARALLEL_PARTS = 4;

export interface UploadOptions {
  readonly credentials?: S3Credentials | null | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

/**
 * Uploads a file as one object: it appears when it is whole. An upload that fails or is called off leaves nothing: its parts are
 * deleted.
 * @throws ClipError
 */
export async function uploadFile(
  path: string,
  size: number,
  location: S3Location,
  options: UploadOptions,
): Promise<void> {
  const { signal, onProgress } = options;
  const [{ Upload }, client] = await Promise.all([
    s3Uploads(),
    newS3Client(clientOptions(location, options.credentials)),
  ]);
  try {
    const partSize = Math.max(MIN_PART, Math.ceil(size / MAX_PARTS));
    const upload = new Upload({
      client,
      params: { Bucket: location.bucket, Key: location.key, Body: createReadStream(path, { highWaterMark: 1 << 20 }) },
      partSize,
      queueSize: PARALLEL_PARTS,
      leavePartsOnError: false,
    });
    upload.on('httpUploadProgress', ({ loaded = 0 }) => onProgress?.(Math.min(loaded, size), size));
    const abort = (): void => void upload.abort();
    signal?.addEventListener('abort', abort, { once: true });
    try {
      signal?.throwIfAborted();
      await upload.done();
    } finally {
      signal?.removeEventListener('abort', abort);
    }
  } catch (error) {
    throw s3Error(error, s3Name(location), signal);
  } finally {
    client.destroy();
  }
}
