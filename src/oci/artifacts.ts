import { ClipError } from '../bytes/index.js';
import {
  ARCHIVE_ARTIFACT,
  ARCHIVE_LAYER,
  archiveLayer,
  artifactLayer,
  embeddedBytes,
  LAYER_ARTIFACT,
  LAYER_LAYER,
  OF_COMMAND,
  OF_MANIFEST,
  PROFILE_ARTIFACT,
  PROFILE_LAYER,
  profilesIn,
  type Referrer,
  referrersOf,
  STARTS,
} from './artifact-manifests.js';
import { BlobUploads, DIGEST_INVALID, EMPTY_CONFIG } from './blob-uploads.js';
import { digestOf, verifyDigest } from './digest.js';
import { type Descriptor, MAX_MANIFEST_BYTES, parseJsonObject, parseManifest } from './manifest.js';
import { ACCEPT_MANIFESTS, OCI_INDEX, OCI_MANIFEST } from './media-types.js';
import { listReferrers } from './referrers.js';
import type { RegistryHosts } from './registry-hosts.js';
import { RepositoryRequests } from './repository-requests.js';
import type { ImageArtifacts, OnBytes } from './source.js';

/*
 * Archives beside their images in a registry, as OCI artifacts (image-spec v1.1, "Guidelines for Artifact Usage"; distribution-spec
 * v1.1, "Listing Referrers"). An archive of the image with manifest sha256:HEX is a manifest with that image as its subject, under the
 * tag sha256-HEX.clip: registries delete manifests without a tag. There is nothing in it that differs from one push to the next.
 */

/**
 * The config of an archive's artifact is that of its image, with its bytes in the manifest ("data" of a descriptor): a node that fetches
 * the archive need not ask for it. Larger ones are left out; registries take manifests of 4 MiB. Its media type is the artifact's:
 * some registries list that as the type of a referrer (go-containerregistry).
 */
const MAX_EMBEDDED_BYTES = 256 * 1024;
/** An archive has 0.5 to 1 % of its image: this is one of 50 GB. */
export const MAX_ARCHIVE_BYTES = 512 * 1024 * 1024;
/** Entries of a list of referrers whose manifests are asked for. */
const MAX_REFERRERS = 16;
const IDENTITY = { 'accept-encoding': 'identity' };

export interface PushedArchive {
  /** Of the artifact's manifest. */
  readonly digest: string;
  readonly tag: string;
  /** False: it was there already. */
  readonly changed: boolean;
}

export function archiveTag(manifestDigest: string): string {
  return `${manifestDigest.replace(':', '-')}.clip`;
}

/** Of the index of a layer, which has a checkpoint each `checkpointMiB` MiB. */
export function layerTag(layerDigest: string, checkpointMiB: number): string {
  return `${layerDigest.replace(':', '-')}.${checkpointMiB}.clip-layer`;
}

/** Of the profile of starts of an image by one command. */
export function profileTag(manifestDigest: string, command: string): string {
  return `${manifestDigest.replace(':', '-')}.${command}.clip-profile`;
}

type Subject = Pick<Descriptor, 'mediaType' | 'digest' | 'size'>;

/** An artifact's only layer, and what stands around it. */
interface Artifact {
  readonly tag: string;
  readonly artifactType: string;
  readonly mediaType: string;
  readonly bytes: Uint8Array;
  /** The image's manifest. */
  readonly subject?: Subject;
  readonly annotations?: Readonly<Record<string, string>>;
  /** The bytes stand in the manifest, too: it is all that is asked for. */
  readonly embed?: boolean;
  /** One that the repository has. */
  readonly config?: EmbeddedConfig | undefined;
  /** Another repository of the registry that may have the bytes. */
  readonly mountFrom?: string | undefined;
  readonly onProgress?: OnBytes | undefined;
}

interface EmbeddedConfig extends Pick<Descriptor, 'mediaType' | 'digest' | 'size'> {
  /** Base64. */
  readonly data: string;
}

/** Where an archive was made. */
export interface PushOrigin {
  /** Another repository of the same registry, which may have the archive already. */
  readonly mountFrom?: string | undefined;
  /** The repository need not have the image: it is one of archives (`--index-source`). */
  readonly apart?: boolean | undefined;
}

/** One repository, for artifacts. */
export class ArtifactRepository implements ImageArtifacts {
  readonly #requests: RepositoryRequests;
  readonly #repository: string;
  readonly #uploads: BlobUploads;
  #last: { readonly tag: string; readonly found: { bytes: Uint8Array } | null } | null = null;

  constructor(hosts: RegistryHosts, repository: string) {
    this.#requests = new RepositoryRequests(hosts, repository);
    this.#repository = repository;
    this.#uploads = new BlobUploads(this.#requests);
  }

  /**
   * Stores an archive as an artifact of the image with this manifest, which must be in the repository unless it is kept apart.
   * @throws ClipError NOT_FOUND, UNAUTHORIZED, NETWORK
   */
  async push(
    archive: Uint8Array,
    manifestDigest: string,
    origin: PushOrigin = {},
    signal?: AbortSignal,
    onProgress?: OnBytes,
  ): Promise<PushedArchive> {
    const tag = archiveTag(manifestDigest);
    const { mountFrom } = origin;
    const artifact = {
      tag,
      artifactType: ARCHIVE_ARTIFACT,
      mediaType: ARCHIVE_LAYER,
      bytes: archive,
      mountFrom,
      onProgress,
    };
    const image = await this.#manifest(manifestDigest, signal);
    if (image === null) {
      if (origin.apart === true) {
        return this.#publish({ ...artifact, annotations: { [OF_MANIFEST]: manifestDigest } }, signal);
      }
      throw this.#lacks(manifestDigest, 'archive');
    }
    const config = await this.#embedded(image, signal);
    return this.#publish({ ...artifact, subject: subjectOf(image, manifestDigest), config }, signal);
  }

  #lacks(manifestDigest: string, what: 'archive' | 'profile'): ClipError {
    return new ClipError(
      'NOT_FOUND',
      `${this.#repository} has no manifest ${manifestDigest}, which the ${what} is of`,
      { hint: `push the ${what} to the repository of its image, or push the image there first` },
    );
  }

  /**
   * Attaches the profile of an image's starts to it, in place of an earlier one.
   * @param command in hex, short enough for a tag
   * @param starts that the profile sums up
   * @throws ClipError NOT_FOUND: the image is not in the repository; UNAUTHORIZED, NETWORK
   */
  async pushProfile(
    profile: Uint8Array,
    manifestDigest: string,
    command: string,
    starts: number,
    signal?: AbortSignal,
  ): Promise<PushedArchive> {
    const image = await this.#manifest(manifestDigest, signal);
    if (image === null) throw this.#lacks(manifestDigest, 'profile');
    const artifact = {
      tag: profileTag(manifestDigest, command),
      artifactType: PROFILE_ARTIFACT,
      mediaType: PROFILE_LAYER,
      bytes: profile,
      subject: subjectOf(image, manifestDigest),
      annotations: { [OF_COMMAND]: command, [STARTS]: String(starts) },
      embed: profile.length <= MAX_EMBEDDED_BYTES,
    };
    return this.#publish(artifact, signal);
  }

  async fetchProfile(
    manifestDigest: string,
    command: string,
    limit: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array | null> {
    for await (const manifest of this.#profileManifests(manifestDigest, command, signal)) {
      const layer = artifactLayer(manifest, PROFILE_ARTIFACT, PROFILE_LAYER, manifestDigest);
      if (layer === null) continue;
      const what = `profile ${layer.digest} of ${this.#repository}`;
      const embedded = embeddedBytes(manifest, layer.digest);
      const size = embedded?.length ?? layer.size;
      if (size > limit) throw new ClipError('LIMIT', `${what} has ${size} bytes; clip takes up to ${limit}`);
      const bytes = embedded ?? (await this.#blob(layer, 'profile', signal));
      if (bytes === null) continue;
      verifyDigest(bytes, layer.digest, what);
      return bytes;
    }
    return null;
  }

  /** By the tag; of an image that was copied with what refers to it, but without such tags, by the list of its referrers. */
  async *#profileManifests(
    manifestDigest: string,
    command: string,
    signal?: AbortSignal,
  ): AsyncGenerator<Uint8Array, void, void> {
    const tagged = await this.#manifest(profileTag(manifestDigest, command), signal);
    if (tagged !== null) yield tagged.bytes;
    const listed: Referrer[] = [];
    for await (const referrer of this.#referrers(manifestDigest, PROFILE_ARTIFACT, signal)) listed.push(referrer);
    for (const digest of profilesIn(listed, command).slice(0, MAX_REFERRERS)) {
      const found = await this.#manifest(digest, signal);
      if (found !== null) yield found.bytes;
    }
  }

  /** The config of an image, if it is small enough. */
  async #embedded(
    image: { bytes: Uint8Array; mediaType: string },
    signal?: AbortSignal,
  ): Promise<EmbeddedConfig | undefined> {
    const manifest = parseManifest(image.bytes, image.mediaType, 'the manifest of the image');
    if (manifest.kind !== 'manifest' || manifest.config.size > MAX_EMBEDDED_BYTES) return undefined;
    const { digest, size } = manifest.config;
    const bytes = await this.#blob(manifest.config, 'config', signal);
    return bytes === null
      ? undefined
      : { mediaType: ARCHIVE_ARTIFACT, digest, size, data: Buffer.from(bytes).toString('base64') };
  }

  /** Stores the index of a layer. @throws ClipError UNAUTHORIZED, NETWORK */
  async pushLayer(index: Uint8Array, tag: string, signal?: AbortSignal, onProgress?: OnBytes): Promise<PushedArchive> {
    const artifact = { tag, artifactType: LAYER_ARTIFACT, mediaType: LAYER_LAYER, bytes: index, onProgress };
    return this.#publish(artifact, signal);
  }

  /** @param admit asked with the size of an index before it is fetched; what it throws is thrown */
  async fetchLayer(tag: string, signal?: AbortSignal, admit?: (size: number) => void): Promise<Uint8Array | null> {
    const tagged = await this.#manifest(tag, signal);
    const layer = tagged === null ? null : artifactLayer(tagged.bytes, LAYER_ARTIFACT, LAYER_LAYER);
    if (layer === null) return null;
    admit?.(layer.size);
    return this.#blob(layer, 'index of a layer', signal);
  }

  async #publish(artifact: Artifact, signal?: AbortSignal): Promise<PushedArchive> {
    const { tag, artifactType, mediaType, bytes, subject, annotations, mountFrom, onProgress } = artifact;
    const data = artifact.embed === true ? { data: Buffer.from(bytes).toString('base64') } : {};
    const layer = { mediaType, digest: digestOf(bytes), size: bytes.length, ...data };
    const config = artifact.config ?? EMPTY_CONFIG;
    const layers = [layer];
    const fields = { schemaVersion: 2, mediaType: OCI_MANIFEST, artifactType, config, layers, subject, annotations };
    const manifest = Buffer.from(JSON.stringify(fields));
    const digest = digestOf(manifest);
    if ((await this.#head(tag, signal)) === digest) return { digest, tag, changed: false };
    await this.#uploads.upload(bytes, layer.digest, signal, mountFrom, onProgress);
    if (artifact.config === undefined) await this.#uploads.storeEmpty(signal);
    const indexed = await this.#put(tag, manifest, OCI_MANIFEST, signal);
    const entry = { mediaType: OCI_MANIFEST, artifactType, digest, size: manifest.length, annotations };
    if (!indexed && subject !== undefined) await this.#addReferrer(subject.digest, entry, signal);
    return { digest, tag, changed: true };
  }

  /**
   * The archive of an image: by its tag, else by the referrers API, else by the referrers tag of registries without one.
   * @param pinned the archive's own digest, when only that one will do
   * @returns null when there is none. @throws ClipError DIGEST_MISMATCH, LIMIT, NETWORK
   */
  async fetch(
    manifestDigest: string,
    pinned?: string,
    signal?: AbortSignal,
    onProgress?: OnBytes,
  ): Promise<Uint8Array | null> {
    for await (const layer of this.#candidates(manifestDigest, signal)) {
      if (pinned !== undefined && layer.digest !== pinned) continue;
      const bytes = await this.#blob(layer, 'archive', signal, onProgress);
      if (bytes !== null) return bytes;
    }
    return null;
  }

  /** The bytes of an image's config out of the artifact of its archive; null when there is none, or they are others. */
  async configOf(
    manifestDigest: string,
    config: Pick<Descriptor, 'digest' | 'size'>,
    signal?: AbortSignal,
  ): Promise<Uint8Array | null> {
    const found = await this.#tagged(manifestDigest, signal);
    if (found === null || archiveLayer(found.bytes, manifestDigest) === null) return null;
    const bytes = embeddedBytes(found.bytes, config.digest);
    return bytes?.length === config.size && digestOf(bytes) === config.digest ? bytes : null;
  }

  /** The manifest under the tag of an image's archive. It is asked for once: an archive is looked for right after the config. */
  async #tagged(manifestDigest: string, signal?: AbortSignal): Promise<{ bytes: Uint8Array } | null> {
    const tag = archiveTag(manifestDigest);
    if (this.#last?.tag !== tag) this.#last = { tag, found: await this.#manifest(tag, signal) };
    return this.#last.found;
  }

  /** Whether the registry lists what refers to a manifest: by its API, or by a tag that clients keep. */
  async listsReferrers(manifestDigest: string, signal?: AbortSignal): Promise<boolean> {
    const path = `${this.#repository}/referrers/${manifestDigest}`;
    const request = { what: 'referrers', headers: { ...IDENTITY, accept: OCI_INDEX }, accept: [200], signal };
    return (await this.#requests.body('resolve', path, request, MAX_MANIFEST_BYTES)) !== null;
  }

  /** The only layer of an artifact, compared with its digest; null when the registry has lost it. */
  async #blob(
    { digest, size }: Descriptor,
    kind: string,
    signal?: AbortSignal,
    onProgress?: OnBytes,
  ): Promise<Uint8Array | null> {
    const what = `${kind} ${digest} of ${this.#repository}`;
    if (size > MAX_ARCHIVE_BYTES)
      throw new ClipError('LIMIT', `${what} has ${size} bytes; clip takes up to ${MAX_ARCHIVE_BYTES}`);
    const request = { what, headers: IDENTITY, accept: [200], signal, rememberRedirect: true };
    const onBytes = onProgress && ((done: number) => onProgress(done, size));
    const bytes = await this.#requests.body('pull', `${this.#repository}/blobs/${digest}`, request, size, { onBytes });
    if (bytes !== null) verifyDigest(bytes, digest, what);
    return bytes;
  }

  /** Layers of manifests that have the image as their subject. */
  async *#candidates(manifestDigest: string, signal?: AbortSignal): AsyncGenerator<Descriptor, void, void> {
    const tagged = await this.#tagged(manifestDigest, signal);
    const own = tagged === null ? null : archiveLayer(tagged.bytes, manifestDigest);
    if (own !== null) yield own;
    let followed = 0;
    for await (const { digest } of this.#referrers(manifestDigest, ARCHIVE_ARTIFACT, signal)) {
      if (++followed > MAX_REFERRERS) return;
      const found = await this.#manifest(digest, signal);
      const layer = found === null ? null : archiveLayer(found.bytes, manifestDigest);
      if (layer !== null && layer.digest !== own?.digest) yield layer;
    }
  }

  /** Of one type: by the API of the registry, else by the tag that clients keep. */
  async *#referrers(
    manifestDigest: string,
    artifactType: string,
    signal?: AbortSignal,
  ): AsyncGenerator<Referrer, void, void> {
    if (yield* listReferrers(this.#requests, manifestDigest, artifactType, signal)) return;
    const tagged = await this.#manifest(manifestDigest.replace(':', '-'), signal);
    if (tagged !== null) yield* referrersOf(tagged.bytes, `the referrers of ${manifestDigest}`, artifactType);
  }

  /** For registries without the referrers API (distribution-spec, "Referrers Tag Schema"). */
  async #addReferrer(manifestDigest: string, entry: { digest: string }, signal?: AbortSignal): Promise<void> {
    const tag = manifestDigest.replace(':', '-');
    const old = await this.#manifest(tag, signal);
    const known =
      old === null
        ? []
        : (parseJsonObject(old.bytes, `the referrers of ${manifestDigest}`).manifests as { digest: string }[]);
    if (Array.isArray(known) && known.some(({ digest }) => digest === entry.digest)) return;
    const manifests = [...(Array.isArray(known) ? known : []), entry];
    const index = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: OCI_INDEX, manifests }));
    await this.#put(tag, index, OCI_INDEX, signal);
  }

  /** null: there is none. A manifest named by digest is compared with it. */
  async #manifest(reference: string, signal?: AbortSignal): Promise<{ bytes: Uint8Array; mediaType: string } | null> {
    const what = `manifest ${reference} of ${this.#repository}`;
    const request = { what, headers: { ...IDENTITY, accept: ACCEPT_MANIFESTS }, accept: [200], signal };
    const capability = reference.includes(':') ? 'pull' : 'resolve';
    let mediaType = '';
    const path = `${this.#repository}/manifests/${reference}`;
    const bytes = await this.#requests.body(capability, path, request, MAX_MANIFEST_BYTES, {
      onHead: (attempt) => {
        mediaType = (attempt.response.headers['content-type'] ?? '').split(';')[0]!.trim();
      },
    });
    if (bytes === null) return null;
    if (reference.includes(':')) verifyDigest(bytes, reference, what);
    const declared = parseJsonObject(bytes, what).mediaType;
    return { bytes, mediaType: typeof declared === 'string' ? declared : mediaType || OCI_MANIFEST };
  }

  async #head(tag: string, signal?: AbortSignal): Promise<string | null> {
    const what = `manifest ${tag} of ${this.#repository}`;
    const headers = { ...IDENTITY, accept: ACCEPT_MANIFESTS };
    const response = await this.#requests.ask(`${this.#repository}/manifests/${tag}`, {
      what,
      method: 'HEAD',
      headers,
      accept: [200, 404],
      signal,
    });
    response.body.cancel();
    return response.status === 200 ? (response.headers['docker-content-digest'] ?? null) : null;
  }

  /** @returns whether the registry lists referrers by itself */
  async #put(tag: string, manifest: Uint8Array, type: string, signal?: AbortSignal): Promise<boolean> {
    const response = await this.#requests.ask(`${this.#repository}/manifests/${tag}`, {
      what: `manifest ${tag} of ${this.#repository}`,
      method: 'PUT',
      headers: { 'content-type': type },
      body: manifest,
      accept: [201],
      passing: DIGEST_INVALID,
      signal,
    });
    response.body.cancel();
    return response.headers['oci-subject'] !== undefined;
  }

  async close(): Promise<void> {
    await this.#requests.hosts.close();
  }
}

function subjectOf({ mediaType, bytes }: { bytes: Uint8Array; mediaType: string }, digest: string): Subject {
  return { mediaType, digest, size: bytes.length };
}
