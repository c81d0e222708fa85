import { deflateRawSync, inflateRawSync } from 'node:zlib';
import type { ContentTier } from '../cache/index.js';
import type { Logger } from '../metrics/index.js';
import { fitting, type ProfiledImage, type StartName } from './kept-profiles.js';
import { parseProfile, type RecordedProfile } from './profile.js';

/** Of a profile of others: compressed, and as JSON. MAX_RANGES ranges of 75 bytes are 1.2 MB and become 0.25 MB. */
export const MAX_PROFILE_BYTES = 512 * 1024;
const MAX_JSON_BYTES = 2 * 1024 * 1024;
/** No mount waits for a lookup, but one that comes later than this is of no use to a start. */
export const LOOKUP_MS = 2000;
/** Part of the name in a content cache. */
const SHARED_FORMAT = 'clip shared profile 1';

/** A profile as machines hand it on. */
export function packProfile(json: string): Uint8Array {
  return deflateRawSync(json);
}

/** @throws ClipError BAD_FORMAT, zlib's error: it is not one of this image */
export function unpackProfile(bytes: Uint8Array, image: ProfiledImage, name: string): RecordedProfile {
  const text = inflateRawSync(bytes, { maxOutputLength: MAX_JSON_BYTES }).toString();
  return fitting(parseProfile(text, name), image, name);
}

/** Profiles that machines share through their content cache. They are not trusted. */
export class SharedProfiles {
  readonly #content: ContentTier;
  readonly #log: Logger;
  readonly #refused: { add(): void };

  constructor(content: ContentTier, log: Logger, refused: { add(): void }) {
    this.#content = content;
    this.#log = log;
    this.#refused = refused;
  }

  /** null: there is none, or it is not one of this image. @throws Error that says why the cache cannot be asked */
  async find(name: StartName, image: ProfiledImage): Promise<RecordedProfile | null> {
    const key = sharedName(name);
    const bytes = await this.#content.getNamed(key, MAX_PROFILE_BYTES, routingKey(name), LOOKUP_MS);
    return bytes === null ? null : unpackOrRefuse(bytes, image, key, this.#log, this.#refused);
  }

  /** In place of what is there. @throws Error that says why it cannot be stored */
  async put(name: StartName, json: string): Promise<void> {
    await this.#content.putNamed(sharedName(name), packProfile(json), routingKey(name));
  }
}

/** null: it is not one of this image, which is logged and counted. */
export function unpackOrRefuse(
  bytes: Uint8Array,
  image: ProfiledImage,
  name: string,
  log: Logger,
  refused: { add(): void },
): RecordedProfile | null {
  try {
    return unpackProfile(bytes, image, name);
  } catch (error) {
    refused.add();
    log.warn({ profile: name, error: String(error) }, 'a shared profile is not one of this image: not used');
    return null;
  }
}

function sharedName({ manifestDigest, command }: StartName): string {
  return `${SHARED_FORMAT} ${manifestDigest} ${command}`;
}

/** Tells a cache of the user's own that this is no content under its own hash (docs/api.md, "ContentCache"). */
function routingKey({ manifestDigest }: StartName): string {
  return `profile:${manifestDigest}`;
}
