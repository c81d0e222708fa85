import type { Command } from 'commander';
import type { StorageOverride } from '../check/index.js';

/** Where an archive's data is, if not where the archive says. */
export interface StorageFlags {
  readonly s3Bucket?: string;
  readonly s3Key?: string;
  readonly s3Region?: string;
  readonly s3Endpoint?: string;
  readonly storageImage?: string;
}

export function addStorageFlags(command: Command): Command {
  return command
    .option('--storage-image <ref>', 'fetch the layers from this image, not from the one that the archive names')
    .option('--s3-bucket <name>', 'of an old archive whose data is in S3: the bucket, if not the one it names')
    .option('--s3-key <key>', 'its object')
    .option('--s3-region <region>', 'its region')
    .option('--s3-endpoint <url>', 'its server');
}

/** The storage that the flags name; undefined if they name none. */
export function storageOverride(flags: StorageFlags): StorageOverride | undefined {
  const { s3Bucket, s3Key, s3Region, s3Endpoint, storageImage } = flags;
  const given = {
    bucket: s3Bucket,
    key: s3Key,
    region: s3Region,
    endpoint: s3Endpoint,
    imageRef: storageImage,
  };
  const named = Object.entries(given).filter(([, value]) => value !== undefined);
  return named.length === 0 ? undefined : (Object.fromEntries(named) as StorageOverride);
}

/** An override as the flags that ask for it. */
export function storageFlags({ bucket, key, region, endpoint, imageRef }: StorageOverride): string {
  const flags = { 's3-bucket': bucket, 's3-key': key, 's3-region': region, 's3-endpoint': endpoint };
  return Object.entries({ ...flags, 'storage-image': imageRef })
    .flatMap(([name, value]) => (value === undefined ? [] : [`--${name} ${value}`]))
    .join(' ');
}
