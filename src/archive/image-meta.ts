import { FormatError, parseJson } from '../bytes/index.js';
import { MAX_LAYERS } from './format.js';
import type { ImageMeta, LayerMeta } from './types.js';

/** The image section. Keys in a fixed order, so that the same image gives the same bytes. */
export function encodeImageMeta(image: ImageMeta): Uint8Array {
  const { platform } = image;
  const layers = image.layers.map(({ digest, mediaType, size, diffId, uncompressedSize }) => ({
    digest,
    mediaType,
    size,
    diffId,
    uncompressedSize,
  }));
  const ordered = {
    reference: image.reference,
    registry: image.registry,
    repository: image.repository,
    manifestDigest: image.manifestDigest,
    platform: {
      os: platform.os,
      architecture: platform.architecture,
      ...(platform.variant === undefined ? {} : { variant: platform.variant }),
    },
    config: image.config,
    layers,
  };
  return Buffer.from(JSON.stringify(ordered), 'utf8');
}

/** image-spec descriptor.md, "Digests": the registered algorithms. */
const DIGEST = /^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/;

/** Of a host and port, and of a repository (distribution/reference, regexp.go): no character that ends a host or leads out of a path. */
const HOST = /^[A-Za-z0-9.:[\]-]*$/;
const REPOSITORY = /^[a-z0-9]+(?:(?:\.|_|__|-+|\/)[a-z0-9]+)*$/;

/**
 * What is wrong with the place that an archive names; null: nothing. Logins are looked up for the registry as it is written here, so
 * it must be the host that is asked: of "evil.example/registry.example.com" that would be another one.
 */
export function placeFault({ registry, repository }: Pick<ImageMeta, 'registry' | 'repository'>): string | null {
  const shown = (text: string): string => JSON.stringify(text.slice(0, 100));
  if (!HOST.test(registry)) return `registry ${shown(registry)} is no host`;
  // Without a registry it is the path of an image layout.
  if (registry !== '' && !REPOSITORY.test(repository)) return `${shown(repository)} is no repository`;
  return null;
}

type Fields = Record<string, unknown>;

/** Checks every field that code relies on; throws FormatError naming the field. */
export function decodeImageMeta(raw: Uint8Array, what: string): ImageMeta {
  const fail = (detail: string): never => {
    throw new FormatError(what, 0, detail);
  };
  const fields = (value: unknown, name: string): Fields =>
    typeof value === 'object' && value !== null && !Array.isArray(value)
      ? (value as Fields)
      : fail(`${name} is no object`);
  const text = (of: Fields, key: string): string => {
    const value = of[key];
    return typeof value === 'string' ? value : fail(`${key} is no string`);
  };
  const digest = (of: Fields, key: string): string => {
    const value = text(of, key);
    return DIGEST.test(value) ? value : fail(`${key} ${JSON.stringify(value.slice(0, 100))} is no digest`);
  };
  const size = (of: Fields, key: string): number => {
    const value = of[key];
    return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? value : fail(`${key} is no size`);
  };

  let json: unknown;
  try {
    json = parseJson(raw);
  } catch (cause) {
    throw new FormatError(what, 0, 'not JSON', { cause });
  }
  const image = fields(json, 'image');
  const platform = fields(image.platform, 'platform');
  if (!Array.isArray(image.layers)) return fail('layers is no array');
  if (image.layers.length > MAX_LAYERS) fail(`${image.layers.length} layers, at most ${MAX_LAYERS} expected`);
  const layers = image.layers.map((value: unknown): LayerMeta => {
    const layer = fields(value, 'layer');
    return {
      digest: digest(layer, 'digest'),
      mediaType: text(layer, 'mediaType'),
      size: size(layer, 'size'),
      diffId: digest(layer, 'diffId'),
      uncompressedSize: size(layer, 'uncompressedSize'),
    };
  });
  const place = { registry: text(image, 'registry'), repository: text(image, 'repository') };
  const fault = placeFault(place);
  if (fault !== null) fail(fault);
  return {
    reference: text(image, 'reference'),
    ...place,
    manifestDigest: digest(image, 'manifestDigest'),
    platform: {
      os: text(platform, 'os'),
      architecture: text(platform, 'architecture'),
      ...(platform.variant === undefined ? {} : { variant: text(platform, 'variant') }),
    },
    config: fields(image.config, 'config'),
    layers,
  };
}
