import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';

export interface TestDescriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly platform?: { readonly os: string; readonly architecture: string; readonly variant?: string };
  readonly annotations?: Readonly<Record<string, string>>;
}

export const MEDIA = {
  ociIndex: 'application/vnd.oci.image.index.v1+json',
  ociManifest: 'application/vnd.oci.image.manifest.v1+json',
  ociConfig: 'application/vnd.oci.image.config.v1+json',
  ociLayer: 'application/vnd.oci.image.layer.v1.tar+gzip',
  dockerList: 'application/vnd.docker.distribution.manifest.list.v2+json',
  dockerManifest: 'application/vnd.docker.distribution.manifest.v2+json',
  dockerConfig: 'application/vnd.docker.container.image.v1+json',
  dockerLayer: 'application/vnd.docker.image.rootfs.diff.tar.gzip',
} as const;

export function sha256(bytes: Uint8Array | string): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

/** Writes an OCI image layout, blob by blob, with the faults that a test asks for. */
export class LayoutBuilder {
  readonly directory: string;
  readonly #entries: TestDescriptor[] = [];

  constructor() {
    this.directory = mkdtempSync(join(tmpdir(), 'clip-layout-'));
    mkdirSync(join(this.directory, 'blobs/sha256'), { recursive: true });
    writeFileSync(join(this.directory, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
    this.#writeIndex();
  }

  blobPath(digest: string): string {
    return join(this.directory, 'blobs', digest.replace(':', '/'));
  }

  blob(bytes: Uint8Array | string, mediaType: string): TestDescriptor {
    const digest = sha256(bytes);
    writeFileSync(this.blobPath(digest), bytes);
    return { mediaType, digest, size: Buffer.byteLength(bytes) };
  }

  json(value: unknown, mediaType: string): TestDescriptor {
    return this.blob(JSON.stringify(value), mediaType);
  }

  /** An image of one gzip layer a content, for one platform. Contents need not be tars. */
  image(
    contents: readonly (Uint8Array | string)[],
    options: {
      architecture?: string;
      os?: string;
      docker?: boolean;
      config?: Record<string, unknown>;
      diffIds?: readonly string[];
    } = {},
  ): TestDescriptor {
    const { architecture = 'amd64', os = 'linux', docker = false } = options;
    const layers = contents.map((content) => this.blob(gzipSync(content), docker ? MEDIA.dockerLayer : MEDIA.ociLayer));
    const diffIds = options.diffIds ?? contents.map((content) => sha256(content));
    const config = this.json(
      { os, architecture, config: options.config ?? {}, rootfs: { type: 'layers', diff_ids: diffIds } },
      docker ? MEDIA.dockerConfig : MEDIA.ociConfig,
    );
    return this.manifest(config, layers, docker ? MEDIA.dockerManifest : MEDIA.ociManifest);
  }

  manifest(
    config: TestDescriptor,
    layers: readonly TestDescriptor[],
    mediaType: string = MEDIA.ociManifest,
  ): TestDescriptor {
    return this.json({ schemaVersion: 2, mediaType, config, layers }, mediaType);
  }

  index(manifests: readonly TestDescriptor[], mediaType: string = MEDIA.ociIndex): TestDescriptor {
    return this.json({ schemaVersion: 2, mediaType, manifests }, mediaType);
  }

  /** Enters a descriptor into index.json. @returns "oci:DIR:TAG", or "oci:DIR" without a tag */
  tag(descriptor: TestDescriptor, tag?: string): string {
    const annotations = {
      ...descriptor.annotations,
      ...(tag !== undefined && { 'org.opencontainers.image.ref.name': tag }),
    };
    this.#entries.push({ ...descriptor, annotations });
    this.#writeIndex();
    return `oci:${this.directory}${tag === undefined ? '' : `:${tag}`}`;
  }

  #writeIndex(): void {
    const index = { schemaVersion: 2, mediaType: MEDIA.ociIndex, manifests: this.#entries };
    writeFileSync(join(this.directory, 'index.json'), JSON.stringify(index));
  }

  remove(): void {
    rmSync(this.directory, { recursive: true, force: true });
  }
}
