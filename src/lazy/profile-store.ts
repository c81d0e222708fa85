import { createHash } from 'node:crypto';
import { readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import type { ImageMeta } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import type { ContentTier } from '../cache/index.js';
import type { Logger, Metrics } from '../metrics/index.js';
import { OwnDirectory } from '../paths/index.js';
import { parseProfile, profilesDirectory, type RecordedProfile } from './profile.js';
import { addStart } from './profile-merge.js';

/** A command of an image: starts are alike, and share a profile, if both are the same. */
export interface StartName {
  readonly manifestDigest: string;
  /** SHA-256 of the command's words, in hex. */
  readonly command: string;
}

type Image = Pick<ImageMeta, 'manifestDigest' | 'config' | 'layers'>;

/** `command`: of a container that does not run the image's own. */
export function startName(image: Image, command?: string): StartName {
  const { Entrypoint, Cmd } = (image.config.config ?? {}) as Record<string, unknown>;
  const own = createHash('sha256').update(JSON.stringify([Entrypoint ?? [], Cmd ?? []]));
  return { manifestDigest: image.manifestDigest, command: command ?? own.digest('hex') };
}

/** Profiles that a cache directory keeps; those that were kept last. Commands may differ in each start. */
const MAX_KEPT = 512;
/** Of a shared profile: compressed, and as JSON. MAX_RANGES ranges of 75 bytes are 1.2 MB and become 0.25 MB. */
const MAX_SHARED_BYTES = 512 * 1024;
const MAX_JSON_BYTES = 2 * 1024 * 1024;
/** No mount waits for a lookup, but one that comes later than this is of no use to a start. */
const LOOKUP_MS = 2000;
/** Part of the name in a content cache. */
const SHARED_FORMAT = 'clip shared profile 1';

/**
 * Profiles of earlier starts: kept in the cache directory, one file a command of an image, and shared through the content cache. A
 * shared one is not trusted: its size is bounded before memory is allocated for it, its ranges are compared with the image's layers,
 * and what it names costs at most some fetched bytes that no reader reads (docs/security.md, "Shared caches").
 */
export class ProfileStore {
  readonly #directory: string;
  readonly #content: ContentTier | null;
  readonly #log: Logger;
  readonly #counters;
  readonly #adding = new Set<Promise<void>>();

  /** @param content null: profiles are not shared */
  constructor(cacheDir: string, content: ContentTier | null, log: Logger, metrics: Metrics) {
    this.#directory = profilesDirectory(cacheDir);
    this.#content = content;
    this.#log = log;
    this.#counters = {
      kept: metrics.counter('profilesFoundKept'),
      shared: metrics.counter('profilesFoundShared'),
      none: metrics.counter('profilesNotFound'),
      refused: metrics.counter('profilesRefused'),
      failed: metrics.counter('profileLookupsFailed'),
      published: metrics.counter('profilesPublished'),
      notPublished: metrics.counter('profilesNotPublished'),
    };
  }

  get shares(): boolean {
    return this.#content !== null;
  }

  /** Where it is kept. */
  path(name: StartName): string {
    return join(this.#directory, fileName(name));
  }

  /** For a mount: what this machine has kept. Null: nothing. */
  findKept(name: StartName, image: Image): RecordedProfile | null {
    try {
      const found = this.#kept(name, image);
      if (found !== null) this.#counters.kept.add();
      return found;
    } catch (error) {
      this.#counters.refused.add();
      this.#log.warn({ path: this.path(name), error: String(error) }, 'a kept profile cannot be used');
      return null;
    }
  }

  /** For a mount that found none kept: what other machines have shared. Never rejects. */
  async findShared(name: StartName, image: Image): Promise<RecordedProfile | null> {
    const found = await this.#shared(name, image);
    (found === null ? this.#counters.none : this.#counters.shared).add();
    return found;
  }

  /** What is known of a command's starts, from wherever there is more: for `clipctl optimize`. Never rejects. */
  async best(name: StartName, image: Image): Promise<RecordedProfile | null> {
    return moreOf(this.#keptOrNone(name, image), await this.#shared(name, image));
  }

  /**
   * Adds a start to what is known, each time that its recording is handed over, in place of what was handed over before. What this machine knows is
   * kept at once. What is shared follows: whoever publishes last wins, and a start that is lost that way comes again.
   */
  begin(name: StartName, image: Image): (start: RecordedProfile) => void {
    let kept: RecordedProfile | null | undefined;
    let shared: Promise<RecordedProfile | null> | null = null;
    let published = Promise.resolve();
    return (start) => {
      const own = kept === undefined ? this.#keptOrNone(name, image) : kept;
      kept = own;
      const json = JSON.stringify(addStart(own, start));
      this.#keep(name, json);
      const content = this.#content;
      if (content === null) return;
      shared ??= this.#shared(name, image);
      published = Promise.all([shared, published]).then(([theirs]) => {
        const base = moreOf(own, theirs);
        if (base === own) return this.#publish(content, name, json);
        const more = JSON.stringify(addStart(base, start));
        this.#keep(name, more);
        return this.#publish(content, name, more);
      });
      const adding = published.finally(() => this.#adding.delete(adding));
      this.#adding.add(adding);
    };
  }

  /** Resolves when all has been published, at the latest after `ms`. */
  async idle(ms: number): Promise<void> {
    if (this.#adding.size === 0) return;
    await Promise.race([Promise.all(this.#adding), new Promise((resolve) => setTimeout(resolve, ms).unref())]);
  }

  /** @throws ClipError, Node's error: it is damaged, or is not this user's */
  #kept(name: StartName, image: Image): RecordedProfile | null {
    let directory: OwnDirectory;
    try {
      directory = OwnDirectory.open(this.#directory);
    } catch (error) {
      if (error instanceof ClipError && error.code === 'NOT_FOUND') return null; // nothing was ever kept
      throw error;
    }
    try {
      const text = directory.read(fileName(name));
      return text === null ? null : fitting(parseProfile(text, this.path(name)), image, this.path(name));
    } finally {
      directory.close();
    }
  }

  /** Beside it a new one is made: what is wrong with it was told when the mount looked for it. */
  #keptOrNone(name: StartName, image: Image): RecordedProfile | null {
    try {
      return this.#kept(name, image);
    } catch {
      return null;
    }
  }

  async #shared(name: StartName, image: Image): Promise<RecordedProfile | null> {
    if (this.#content === null) return null;
    const key = sharedName(name);
    let bytes: Uint8Array | null;
    try {
      bytes = await this.#content.getNamed(key, MAX_SHARED_BYTES, routingKey(name), LOOKUP_MS);
    } catch (error) {
      this.#counters.failed.add();
      this.#log.warn({ profile: key, error: String(error) }, 'no profile could be had from the content cache');
      return null;
    }
    if (bytes === null) return null;
    try {
      const text = inflateRawSync(bytes, { maxOutputLength: MAX_JSON_BYTES }).toString();
      return fitting(parseProfile(text, key), image, key);
    } catch (error) {
      this.#counters.refused.add();
      this.#log.warn({ profile: key, error: String(error) }, 'a shared profile is not one of this image: not used');
      return null;
    }
  }

  async #publish(content: ContentTier, name: StartName, json: string): Promise<void> {
    try {
      await content.putNamed(sharedName(name), deflateRawSync(json), routingKey(name));
      this.#counters.published.add();
    } catch (error) {
      this.#counters.notPublished.add();
      this.#log.warn({ error: String(error) }, 'a profile could not be put into the content cache');
    }
  }

  /** A cache directory that cannot be written costs the profile, not the mount. */
  #keep(name: StartName, json: string): void {
    try {
      const directory = OwnDirectory.open(this.#directory, { make: true });
      try {
        directory.replace(fileName(name), `${json}\n`, { durable: false });
        const names = readdirSync(directory.at('.')).filter((entry) => entry.endsWith('.json'));
        if (names.length <= MAX_KEPT) return;
        const aged = names.map((entry) => ({ entry, at: statSync(directory.at(entry)).mtimeMs }));
        aged.sort((a, b) => b.at - a.at);
        for (const { entry } of aged.slice(MAX_KEPT)) rmSync(directory.at(entry), { force: true });
      } finally {
        directory.close();
      }
    } catch (error) {
      this.#log.warn({ path: this.path(name), error: String(error) }, 'the profile cannot be kept');
    }
  }
}

function fileName({ manifestDigest, command }: StartName): string {
  return `${manifestDigest.replace(/^\w+:/, '')}-${command.slice(0, 12)}.json`;
}

function sharedName({ manifestDigest, command }: StartName): string {
  return `${SHARED_FORMAT} ${manifestDigest} ${command}`;
}

/** Tells a cache of the user's own that this is no content under its own hash (docs/api.md, "ContentCache"). */
function routingKey({ manifestDigest }: StartName): string {
  return `profile:${manifestDigest}`;
}

function moreOf(kept: RecordedProfile | null, shared: RecordedProfile | null): RecordedProfile | null {
  const starts = (profile: RecordedProfile | null): number => (profile === null ? 0 : (profile.starts ?? 1));
  return starts(shared) > starts(kept) ? shared : kept;
}

/** @throws ClipError BAD_FORMAT when it is of another image, or names bytes that the image has not */
function fitting(profile: RecordedProfile, { manifestDigest, layers }: Image, name: string): RecordedProfile {
  const bad = (detail: string): ClipError => new ClipError('BAD_FORMAT', `${name}: ${detail}`);
  if (profile.manifestDigest !== manifestDigest) throw bad('it is of another image');
  if (profile.layers.join() !== layers.map((layer) => layer.digest).join()) throw bad('its layers are others');
  const wrong = profile.ranges.findIndex(({ layer, end }) => end > layers[layer]!.uncompressedSize);
  if (wrong >= 0) throw bad(`range ${wrong} is beyond the end of its layer`);
  return profile;
}
