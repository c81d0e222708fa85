// OCI image-spec media-types.md, and Docker's image manifest v2 schema 2 (distribution, docs/spec/manifest-v2-2.md).
export const OCI_INDEX = 'application/vnd.oci.image.index.v1+json';
export const OCI_MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
export const DOCKER_LIST = 'application/vnd.docker.distribution.manifest.list.v2+json';
export const DOCKER_MANIFEST = 'application/vnd.docker.distribution.manifest.v2+json';

/** What a manifest request accepts. Schema 1 is not in it, so a registry that could convert does not. */
export const ACCEPT_MANIFESTS = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(', ');

export function isSchema1(mediaType: string): boolean {
  return mediaType.startsWith('application/vnd.docker.distribution.manifest.v1+');
}

const CONFIGS = new Set(['application/vnd.oci.image.config.v1+json', 'application/vnd.docker.container.image.v1+json']);

/** Config media types that mean "a container image". Some old builders wrote none, or plain JSON. */
export function isImageConfig(mediaType: string): boolean {
  return CONFIGS.has(mediaType) || mediaType === '' || mediaType === 'application/json';
}

/** Layers that a registry may hold, but need not: Windows base layers and the like (image-spec layer.md, "Non-Distributable Layers"). */
export function isForeignLayer(mediaType: string): boolean {
  return /\.image\.rootfs\.foreign\.|\.layer\.nondistributable\./.test(mediaType);
}

/** ocicrypt's layers. */
export function isEncryptedLayer(mediaType: string): boolean {
  return mediaType.endsWith('+encrypted');
}
