import { createHash } from 'node:crypto';
import { closeSync, fstatSync, openSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { S3Location } from '../archive/index.js';
import { anyFunction, ClipError, fields, object, string } from '../bytes/index.js';
import { ArchiveFile } from '../check/index.js';
import { checkWritable, writeFileByRename } from '../index/index.js';
import { decodeHeader, HEADER_SIZE, s3Archive } from '../legacy/index.js';
import type { S3Credentials } from '../s3/index.js';
import { type CreateArchiveOptions, type CreateArchiveResult, createArchive, signalOption } from './create.js';
import { readRange } from './extract.js';

export interface StoreS3Options {
  /** A local archive of version 1. */
  readonly archivePath: string;
  /** The `.rclip` to write: the index, and where the data is. */
  readonly outputPath: string;
  readonly storageInfo: S3Target;
  readonly credentials?: S3Credentials | null | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Bytes that S3 has, and all there are. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

/** Where the data goes. */
export interface S3Target extends Partial<S3Location> {
  readonly bucket: string;
  /** Default: the archive's file name. */
  readonly key?: string;
}

export interface StoreS3Result {
  readonly outputPath: string;
  readonly location: S3Location;
  /** Bytes of the object, and of the `.rclip`. */
  readonly objectSize: number;
  readonly size: number;
  readonly milliseconds: number;
}

const checkTarget = object(
  { bucket: string },
  { key: string, region: string, endpoint: string, forcePathStyle: (v) => v },
);
const checkOptions = fields(
  { archivePath: string, outputPath: string, storageInfo: checkTarget },
  { signal: signalOption, onProgress: anyFunction },
);

/**
 * Uploads a local archive to S3 and writes the `.rclip` that mounts from there. The object appears when it is whole, and the
 * `.rclip` after it: an upload that is interrupted leaves neither.
 * @throws ClipError naming the archive or the object
 */
export async function storeS3(options: StoreS3Options): Promise<StoreS3Result> {
  checkOptions(options, 'storeS3: options');
  const started = performance.now();
  const { archivePath, outputPath, signal, credentials, onProgress } = options;
  await checkWritable(outputPath);
  // Opened as a whole: what cannot be read is not uploaded.
  const file = ArchiveFile.open(archivePath);
  const { storage, version } = file.archive;
  file.close();
  if (version !== 1 || storage.kind !== 'local') {
    throw new ClipError('UNSUPPORTED', `${archivePath} is not a local archive of version 1`, {
      hint: 'make one with: clipctl create DIR --out FILE',
    });
  }
  const fd = openSync(archivePath, 'r');
  let index: Buffer;
  let objectSize: number;
  try {
    objectSize = fstatSync(fd).size;
    const { index: at } = decodeHeader(readRange(fd, 0, HEADER_SIZE), archivePath, objectSize);
    index = readRange(fd, at.position, at.length);
  } finally {
    closeSync(fd);
  }
  const { bucket, region = process.env.AWS_REGION || 'us-east-1', endpoint = '' } = options.storageInfo;
  const key = options.storageInfo.key ?? basename(archivePath);
  const forcePathStyle = options.storageInfo.forcePathStyle ?? endpoint !== '';
  const location = { bucket, region, key, endpoint, forcePathStyle };
  const { uploadFile } = await import('../s3/index.js');
  await uploadFile(archivePath, location, { credentials, signal, onProgress });
  const parts = s3Archive(index, location);
  // Not called off any more: the object is there.
  await writeFileByRename(outputPath, parts);
  const size = parts.reduce((sum, part) => sum + part.length, 0);
  return { outputPath, location, objectSize, size, milliseconds: Math.round(performance.now() - started) };
}

/** createArchive, then storeS3: `outputPath` is the `.rclip`. The local archive lies beside it while it is uploaded. */
export async function createAndUploadArchive(
  options: CreateArchiveOptions,
  storageInfo: S3Target,
  credentials?: S3Credentials | null,
): Promise<CreateArchiveResult & { readonly location: S3Location }> {
  const { outputPath, signal } = options;
  const name = createHash('sha256')
    .update(`${outputPath} ${process.pid} ${performance.now()}`)
    .digest('hex')
    .slice(0, 12);
  const local = join(dirname(outputPath), `.${basename(outputPath)}.${name}.tmp`);
  try {
    const made = await createArchive({ ...options, outputPath: local });
    const key = storageInfo.key ?? basename(outputPath).replace(/\.rclip$/, '.clip');
    const target = { ...storageInfo, key };
    const { location } = await storeS3({ archivePath: local, outputPath, storageInfo: target, credentials, signal });
    return { ...made, outputPath, location };
  } finally {
    await rm(local, { force: true });
  }
}
