import type { S3Location } from '../archive/index.js';
import { FormatError } from '../bytes/index.js';
import { GobReader, GobStruct, type GobValue, GobWriter, gobText, type StructSchema } from './gob/index.js';

/** Where an OCI archive's layers lie. */
export interface OciLocation {
  readonly registry: string;
  readonly repository: string;
  /** A tag or a digest. */
  readonly reference: string;
  /** "sha256:…", base first. */
  readonly layers: readonly string[];
  /** Empty, or what the program noted of the image: JSON-like values by Go's field names. */
  readonly metadata: ImageMetadata;
}

/** The parts of the Go program's ImageMetadata that say what a v2 archive says too. */
export interface ImageMetadata {
  readonly name: string;
  readonly digest: string;
  readonly architecture: string;
  readonly variant: string;
  readonly os: string;
  readonly env: readonly string[];
  readonly cmd: readonly string[];
  readonly entrypoint: readonly string[];
  readonly user: string;
  readonly workingDir: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Media type and size by digest, where they are noted. */
  readonly layers: ReadonlyMap<string, { readonly mediaType: string; readonly size: number }>;
}

/** The info is a gob within a gob: {Type, Data}, and Data the gob of the info itself. */
function inner(bytes: Uint8Array, what: string): GobStruct {
  const wrapper = structOf(new GobReader(bytes, what).next(), what);
  const data = wrapper.get('Data');
  if (!(data instanceof Uint8Array)) throw new FormatError(what, 0, 'no Data');
  return structOf(new GobReader(data, `${what}: Data`).next(), what);
}

function structOf(value: GobValue | undefined, what: string): GobStruct {
  if (value instanceof GobStruct) return value;
  throw new FormatError(what, 0, 'a struct expected');
}

const text = (of: GobStruct, name: string): string => gobText(of.get(name));

function texts(of: GobStruct, name: string): string[] {
  const value = of.get(name);
  return Array.isArray(value) ? value.map((item: GobValue) => gobText(item)) : [];
}

/** @throws FormatError */
export function decodeS3Info(bytes: Uint8Array, what: string): S3Location {
  const info = inner(bytes, what);
  const bucket = text(info, 'Bucket');
  const key = text(info, 'Key');
  if (bucket === '' || key === '') throw new FormatError(what, 0, 'a bucket and a key expected');
  // The field came in 2026. Before, the program spoke path style to every endpoint that was named.
  const knowsStyle = info.type.fields.some(({ name }) => name === 'ForcePathStyle');
  const endpoint = text(info, 'Endpoint');
  return {
    bucket,
    region: text(info, 'Region'),
    key,
    endpoint,
    forcePathStyle: knowsStyle ? info.get('ForcePathStyle') === true : endpoint !== '',
  };
}

const DIGEST = /^sha256:[0-9a-f]{64}$/;

/** Checkpoints and hashes of layers are not read: they hold no windows, and the hashes of early ones are wrong. @throws FormatError */
export function decodeOciInfo(bytes: Uint8Array, what: string): OciLocation {
  const info = inner(bytes, what);
  const layers = texts(info, 'Layers');
  for (const digest of layers) {
    if (!DIGEST.test(digest)) {
      throw new FormatError(what, 0, `layer ${JSON.stringify(digest.slice(0, 100))} is no digest`);
    }
  }
  const metadata = info.get('ImageMetadata');
  return {
    registry: text(info, 'RegistryURL')
      .replace(/^https?:\/\//, '')
      .replace(/\/+$/, ''),
    repository: text(info, 'Repository'),
    reference: text(info, 'Reference'),
    layers,
    metadata: metadataOf(metadata instanceof GobStruct ? metadata : null),
  };
}

function metadataOf(of: GobStruct | null): ImageMetadata {
  const one = (name: string): string => (of === null ? '' : text(of, name));
  const many = (name: string): string[] => (of === null ? [] : texts(of, name));
  const labels = of?.get('Labels');
  const data = of?.get('LayersData');
  const layers = new Map<string, { mediaType: string; size: number }>();
  for (const layer of Array.isArray(data) ? (data as GobValue[]) : []) {
    if (!(layer instanceof GobStruct)) continue;
    const size = layer.get('Size') ?? 0;
    if (typeof size === 'number' && size >= 0) {
      layers.set(text(layer, 'Digest'), { mediaType: text(layer, 'MIMEType'), size });
    }
  }
  return {
    name: one('Name'),
    digest: one('Digest'),
    architecture: one('Architecture'),
    variant: one('Variant'),
    os: one('Os'),
    env: many('Env'),
    cmd: many('Cmd'),
    entrypoint: many('Entrypoint'),
    user: one('User'),
    workingDir: one('WorkingDir'),
    labels: labels instanceof Map ? Object.fromEntries([...labels].map(([k, v]) => [String(k), gobText(v)])) : {},
    layers,
  };
}

const WRAPPER: StructSchema = {
  struct: 'StorageInfoWrapper',
  fields: [
    ['Type', 'string'],
    ['Data', 'bytes'],
  ],
};
const S3_INFO: StructSchema = {
  struct: 'S3StorageInfo',
  fields: [
    ['Bucket', 'string'],
    ['Region', 'string'],
    ['Key', 'string'],
    ['Endpoint', 'string'],
    ['ForcePathStyle', 'bool'],
  ],
};

export function encodeS3Info(location: S3Location): Uint8Array {
  const { bucket, region, key, endpoint, forcePathStyle } = location;
  const data = new GobWriter()
    .write(S3_INFO, { Bucket: bucket, Region: region, Key: key, Endpoint: endpoint, ForcePathStyle: forcePathStyle })
    .finish();
  return new GobWriter().write(WRAPPER, { Type: 's3', Data: data }).finish();
}
