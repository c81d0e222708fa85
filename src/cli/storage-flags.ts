import type { Command } from 'commander';
import { ClipError } from '../bytes/index.js';
import type { StorageOverride } from '../check/index.js';
import type { S3Credentials } from '../s3/index.js';
import { grouped } from './common-flags.js';

/** Where an archive's data is, if not where the archive says. */
export interface StorageFlags {
  readonly s3Bucket?: string;
  readonly s3Key?: string;
  readonly s3Region?: string;
  readonly s3Endpoint?: string;
  readonly storageImage?: string;
}

/** The flags of commands that talk to S3 and to nothing else. */
export interface S3Flags extends Omit<StorageFlags, 'storageImage'> {
  readonly creds?: string;
}

export function addS3Flags(command: Command): Command {
  return grouped(command, 'S3:', (group) =>
    group
      .option('--s3-bucket <name>', 'the bucket')
      .option('--s3-key <key>', "the object (default for store: the archive's name)")
      .option('--s3-region <region>', 'the region (default: AWS_REGION, or us-east-1)')
      .option('--s3-endpoint <url>', "the server, if not Amazon's")
      .option('--creds <key:secret>', 'keys, in place of those of the environment'),
  );
}

export function s3CredentialsFrom({ creds }: S3Flags): S3Credentials | undefined {
  if (creds === undefined) return undefined;
  const colon = creds.indexOf(':');
  if (colon <= 0) throw new ClipError('USAGE', '--creds takes KEY_ID:SECRET');
  return { accessKeyId: creds.slice(0, colon), secretAccessKey: creds.slice(colon + 1) };
}

/** Beside those of addImageFlags. */
export function addStorageFlags(command: Command): Command {
  return grouped(command, 'Where the data is:', (group) =>
    group
      .option('--storage-image <ref>', 'fetch the layers from this image, not from the one that the archive names')
      .option('--s3-bucket <name>', 'of an old archive whose data is in S3: the bucket, if not the one it names')
      .option('--s3-key <key>', 'its object; --s3-endpoint and --s3-region are also of this data'),
  );
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

/** The same as options of a mount. Absent when none is given, so that nothing conflicts with a mount that exists. */
export function storageFrom(flags: StorageFlags): { storage?: StorageOverride } {
  const storage = storageOverride(flags);
  return storage === undefined ? {} : { storage };
}

/** An override as the flags that ask for it. */
export function storageFlags({ bucket, key, region, endpoint, imageRef }: StorageOverride): string {
  const flags = { 's3-bucket': bucket, 's3-key': key, 's3-region': region, 's3-endpoint': endpoint };
  return Object.entries({ ...flags, 'storage-image': imageRef })
    .flatMap(([name, value]) => (value === undefined ? [] : [`--${name} ${value}`]))
    .join(' ');
}
