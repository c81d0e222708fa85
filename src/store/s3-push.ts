import { randomBytes } from 'node:crypto';
import { rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { S3Location } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import { readArchiveImage } from '../check/index.js';
import { type CreateFromOCIImageOptions, checkWritable, createFromOCIImage, type IndexResult } from '../index/index.js';
import { MAX_ARCHIVE_BYTES } from '../oci/index.js';
import { parseS3Url, type S3Credentials, sha256OfFile, type Uploaded, uploadFile } from '../s3/index.js';

export interface PushedToS3 extends Uploaded {
  readonly location: S3Location;
  /** Of the archive. */
  readonly archiveDigest: string;
  readonly size: number;
}

export interface PushToS3Options {
  readonly credentials?: S3Credentials | null | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

/**
 * Stores an archive as an object in S3, where `s3://BUCKET/KEY` names it. It appears when it is whole; the same archive again changes
 * nothing.
 * @throws ClipError BAD_FORMAT for a file that is no archive, LIMIT, NOT_FOUND, UNAUTHORIZED, NETWORK
 */
export async function pushToS3(path: string, location: S3Location, options: PushToS3Options): Promise<PushedToS3> {
  readArchiveImage(path);
  const { size } = await stat(path);
  if (size > MAX_ARCHIVE_BYTES) {
    throw new ClipError(
      'LIMIT',
      `${path} is larger than ${MAX_ARCHIVE_BYTES} bytes, the most that clip fetches again`,
      {
        hint: 'for an archive that holds its data: clipctl store',
      },
    );
  }
  const sha256 = await sha256OfFile(path);
  const uploaded = await uploadFile(path, location, { ...options, sha256 });
  return { ...uploaded, location, size, archiveDigest: `sha256:${sha256}` };
}

/** Where the archive goes. */
export interface UploadTarget extends Partial<S3Location> {
  readonly bucket: string;
  /** Default: the file name of `outputPath`. */
  readonly key?: string;
}

export interface UploadedArchive extends IndexResult {
  readonly location: S3Location;
  readonly etag: string;
  readonly archiveDigest: string;
  readonly changed: boolean;
}

/**
 * createFromOCIImage, then the upload of the archive to S3: the object appears when it is whole, and `outputPath` after it. A call that
 * fails or is called off leaves neither.
 * @throws ClipError
 */
export async function createAndUploadOCIArchive(
  options: CreateFromOCIImageOptions,
  storageInfo: UploadTarget,
  credentials?: S3Credentials | null,
): Promise<UploadedArchive> {
  const { outputPath, signal } = options;
  const { bucket, key = basename(outputPath), region, endpoint, forcePathStyle } = storageInfo;
  const named = parseS3Url(`s3://${bucket}/${key}`, { endpoint, region });
  const location = { ...named, forcePathStyle: forcePathStyle ?? named.forcePathStyle };
  await checkWritable(outputPath);
  const unique = `.${basename(outputPath)}.${process.pid}.${randomBytes(4).toString('hex')}.tmp`;
  const local = join(dirname(outputPath), unique);
  try {
    const made = await createFromOCIImage({ ...options, outputPath: local });
    const { etag, archiveDigest, changed } = await pushToS3(local, location, { credentials, signal });
    await rename(local, outputPath);
    return { ...made, outputPath, location, etag, archiveDigest, changed };
  } finally {
    await rm(local, { force: true });
  }
}
