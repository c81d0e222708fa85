import { createHash } from 'node:crypto';
import { ClipError, parseJson } from '../bytes/index.js';
import { digestOf, isDigest } from './digest.js';
import { type LayoutFiles, MemoryFile, type OpenFile } from './layout-files.js';
import { MAX_CONFIG_BYTES, MAX_LAYERS, MAX_MANIFEST_BYTES, parseJsonObject } from './manifest.js';
import { OCI_INDEX, OCI_MANIFEST } from './media-types.js';
import { parseReference } from './reference.js';

const CONFIG = 'application/vnd.oci.image.config.v1+json';
const LAYER = 'application/vnd.oci.image.layer.v1.tar';
const READ_BYTES = 1024 * 1024;
/** Of all images together, which stay in memory: ten times what the images of a large `docker save` have. */
const MAX_CONFIGS_BYTES = 64 * 1024 * 1024;

interface Layer {
  readonly digest: string;
  readonly size: number;
  readonly mediaType: string;
}

interface Config {
  readonly bytes: Uint8Array;
  readonly digest: string;
  readonly diffIds: readonly unknown[];
}

/** What a member says of itself. */
interface MemberLayer extends Omit<Layer, 'digest'> {
  /** null: of a plain tar, whose digest is its diff ID. */
  readonly digest: string | null;
}

/**
 * What `docker save`, `podman save` and skopeo's docker-archive write (manifest.json, configs, layers), as an OCI image layout.
 * Manifests and the index are made here; they are the same each time. Layers of the old form are plain tars and have their
 * diff ID as digest; those of the new form lie under `blobs/` by their digest.
 */
export class DockerArchive implements LayoutFiles {
  readonly #tar: LayoutFiles;
  readonly #path: string;
  /** By member. Any number of images may name one. */
  readonly #configs = new Map<string, Promise<Config>>();
  readonly #layers = new Map<string, Promise<MemberLayer>>();
  /** Of plain tars whose diff ID is not known. */
  readonly #sums = new Map<string, Promise<string>>();
  #configBytes = 0;
  #made: Promise<{ files: Map<string, Uint8Array>; members: Map<string, string> }> | null = null;

  constructor(tar: LayoutFiles, path: string) {
    this.#tar = tar;
    this.#path = path;
  }

  async open(name: string): Promise<OpenFile | null> {
    this.#made ??= this.#make();
    const { files, members } = await this.#made;
    const bytes = files.get(name);
    if (bytes !== undefined) return new MemoryFile(bytes);
    const member = members.get(name);
    return member === undefined ? null : this.#tar.open(member);
  }

  async close(): Promise<void> {
    await this.#tar.close();
  }

  async #make(): Promise<{ files: Map<string, Uint8Array>; members: Map<string, string> }> {
    const files = new Map<string, Uint8Array>();
    const members = new Map<string, string>();
    const manifests: object[] = [];
    for (const image of await this.#images()) {
      const { descriptor, tags } = await this.#image(image, files, members);
      const named =
        tags.length === 0 ? [{}] : tags.map((tag) => ({ annotations: { 'org.opencontainers.image.ref.name': tag } }));
      for (const annotations of named) manifests.push({ ...descriptor, ...annotations });
    }
    const json = (value: object): Uint8Array => Buffer.from(JSON.stringify(value));
    files.set('oci-layout', json({ imageLayoutVersion: '1.0.0' }));
    files.set('index.json', json({ schemaVersion: 2, mediaType: OCI_INDEX, manifests }));
    return { files, members };
  }

  async #images(): Promise<readonly unknown[]> {
    const bytes = await this.#small('manifest.json', MAX_MANIFEST_BYTES);
    let list: unknown;
    try {
      list = parseJson(bytes);
    } catch {
      throw this.#bad('its manifest.json is not JSON');
    }
    if (!Array.isArray(list)) throw this.#bad('its manifest.json is not a list');
    return list;
  }

  /** The manifest that the image would have in a layout, and its names. */
  async #image(
    value: unknown,
    files: Map<string, Uint8Array>,
    members: Map<string, string>,
  ): Promise<{ descriptor: object; tags: string[] }> {
    const { Config, Layers, RepoTags } = (value ?? {}) as { Config?: unknown; Layers?: unknown; RepoTags?: unknown };
    if (typeof Config !== 'string' || !Array.isArray(Layers) || !Layers.every((one) => typeof one === 'string')) {
      throw this.#bad('an entry of its manifest.json lacks Config or Layers');
    }
    if (Layers.length > MAX_LAYERS)
      throw new ClipError(
        'LIMIT',
        `${this.#path}: an image of ${Layers.length} layers; clip takes up to ${MAX_LAYERS}`,
      );
    const { bytes, digest: configDigest, diffIds } = await once(this.#configs, Config, () => this.#config(Config));
    const layers: Layer[] = [];
    for (const [i, name] of (Layers as string[]).entries()) {
      const member = await once(this.#layers, name, () => this.#layer(name));
      const digest = member.digest ?? (await this.#diffId(name, diffIds[i]));
      layers.push({ ...member, digest });
      members.set(blobName(digest), name);
    }
    files.set(blobName(configDigest), bytes);
    const manifest = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: OCI_MANIFEST,
        config: { mediaType: CONFIG, digest: configDigest, size: bytes.length },
        layers,
      }),
    );
    const digest = digestOf(manifest);
    files.set(blobName(digest), manifest);
    const tags = (Array.isArray(RepoTags) ? RepoTags : []).flatMap((tag) => {
      const name = canonicalTag(String(tag));
      return name === null ? [] : [name];
    });
    return { descriptor: { mediaType: OCI_MANIFEST, digest, size: manifest.length }, tags };
  }

  async #config(name: string): Promise<Config> {
    const bytes = await this.#small(name, MAX_CONFIG_BYTES);
    this.#configBytes += bytes.length;
    if (this.#configBytes > MAX_CONFIGS_BYTES)
      throw new ClipError('LIMIT', `${this.#path}: the configs of its images exceed ${MAX_CONFIGS_BYTES} bytes`);
    const { rootfs } = parseJsonObject(bytes, `the config ${name} of ${this.#path}`);
    const diffIds = (rootfs as { diff_ids?: unknown } | undefined)?.diff_ids;
    return { bytes, digest: digestOf(bytes), diffIds: Array.isArray(diffIds) ? diffIds : [] };
  }

  async #layer(name: string): Promise<MemberLayer> {
    const file = await this.#member(name);
    const { size } = file;
    try {
      const start = Buffer.alloc(4);
      await file.read(start, 0, Math.min(4, size), 0);
      const gzip = start[0] === 0x1f && start[1] === 0x8b;
      const zstd = start.readUInt32LE(0) === 0xfd2fb528;
      const mediaType = gzip ? `${LAYER}+gzip` : zstd ? `${LAYER}+zstd` : LAYER;
      const hex = /^blobs\/sha256\/([0-9a-f]{64})$/.exec(name)?.[1];
      if (hex !== undefined) return { mediaType, digest: `sha256:${hex}`, size };
      return { mediaType, digest: mediaType === LAYER ? null : await sha256Of(file), size };
    } finally {
      await file.close();
    }
  }

  /** As the config says, which indexing compares; of a config that does not say it, as the tar is. */
  async #diffId(name: string, said: unknown): Promise<string> {
    if (typeof said === 'string' && isDigest(said)) return said;
    return once(this.#sums, name, async () => {
      const file = await this.#member(name);
      try {
        return await sha256Of(file);
      } finally {
        await file.close();
      }
    });
  }

  async #member(name: string): Promise<OpenFile> {
    const file = await this.#tar.open(name);
    if (file === null) throw this.#bad(`it has no ${name}`);
    return file;
  }

  async #small(name: string, limit: number): Promise<Uint8Array> {
    const file = await this.#member(name);
    try {
      if (file.size > limit)
        throw new ClipError('LIMIT', `${name} in ${this.#path} has ${file.size} bytes; clip takes up to ${limit}`);
      const bytes = new Uint8Array(file.size);
      for (let at = 0; at < bytes.length; ) {
        const read = await file.read(bytes, at, bytes.length - at, at);
        if (read === 0) throw this.#bad(`${name} ends early`);
        at += read;
      }
      return bytes;
    } finally {
      await file.close();
    }
  }

  #bad(what: string): ClipError {
    return new ClipError('BAD_FORMAT', `${this.#path} is not an archive of docker save: ${what}`, {
      hint: 'save the image again; an archive of an OCI layout is oci-archive:FILE',
    });
  }
}

function once<T>(known: Map<string, Promise<T>>, name: string, make: () => Promise<T>): Promise<T> {
  const found = known.get(name);
  if (found !== undefined) return found;
  const made = make();
  known.set(name, made);
  return made;
}

function blobName(digest: string): string {
  return `blobs/${digest.replace(':', '/')}`;
}

/** "busybox" and "docker.io/library/busybox:latest" are one name. */
function canonicalTag(tag: string): string | null {
  try {
    return parseReference(tag).canonical;
  } catch {
    return null; // a name that cannot be asked for
  }
}

async function sha256Of(file: OpenFile): Promise<string> {
  const hash = createHash('sha256');
  const buffer = Buffer.alloc(READ_BYTES);
  for (let at = 0; at < file.size; ) {
    const read = await file.read(buffer, 0, buffer.length, at);
    if (read === 0) break;
    hash.update(buffer.subarray(0, read));
    at += read;
  }
  return `sha256:${hash.digest('hex')}`;
}
