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
/** Of a profile of others: compressed, and as JSON. MAX_RANGES ranges of 75 bytes are 1.2 MB and become 0.25 MB. */
export const MAX_PROFILE_BYTES = 512 * 1024;
const MAX_JSON_BYTES = 2 * 1024 * 1024;
/** Registries that a server remembers to have asked, by image and command. */
const MAX_ASKED = 512;
/** No mount waits for a lookup, but one that comes later than this is of no use to a start. */
const LOOKUP_MS = 2000;
/** Part of the name in a content cache. */
const SHARED_FORMAT = 'clip shared profile 1';

/** What the archive derives from the image's command waits this long for a profile that a content cache has. */
const SHARED_FIRST_MS = 50;

/** Asks an image's registry for the profile that is attached to it, packed; null: there is none. `command`: {@link profileId}. */
export type AskRegistry = (command: string, limit: number, signal: AbortSignal) => Promise<Uint8Array | null>;

/** A command in names of files and tags. */
function profileId({ command }: StartName): string {
  return command.slice(0, 12);
}
const PROFILE_ID = /^[0-9a-f]{12}$/;

/** A profile as machines hand it on. */
export function packProfile(json: string): Uint8Array {
  return deflateRawSync(json);
}

/** @throws ClipError BAD_FORMAT, zlib's error: it is not one of this image */
export function unpackProfile(bytes: Uint8Array, image: Image, name: string): RecordedProfile {
  const text = inflateRawSync(bytes, { maxOutputLength: MAX_JSON_BYTES }).toString();
  return fitting(parseProfile(text, name), image, name);
}

/** A profile of earlier starts, and whose: of this machine, of others through a content cache, or attached to the image in its registry. */
export interface FoundProfile {
  readonly profile: RecordedProfile;
  readonly from: 'kept' | 'shared' | 'registry';
}

/** How profiles of other machines are had; those that are attached to images by their registries in any case. */
export interface ProfileSharing {
  /** null: none. */
  readonly content: ContentTier | null;
}

/**
 * Profiles of earlier starts: kept in the cache directory, one file a command of an image; shared through the content cache; and attached
 * to images in their registries by `clipctl push --profiles`. Those of others are not trusted: their size is bounded before memory is
 * allocated for it, their ranges are compared with the image's layers, and what they name costs at most some fetched bytes that no
 * reader reads (docs/security.md, "Shared caches").
 */
export class ProfileStore {
  readonly #directory: string;
  readonly #content: ContentTier | null;
  readonly #log: Logger;
  readonly #counters;
  readonly #adding = new Set<Promise<void>>();
  readonly #sharing: boolean;
  /** What registries have answered, by the kept file's name: each is asked once. */
  readonly #attached = new Map<string, { found: RecordedProfile | null }>();

  /** @param sharing null: profiles of other machines are not looked for, and none is shared */
  constructor(cacheDir: string, sharing: ProfileSharing | null, log: Logger, metrics: Metrics) {
    this.#directory = profilesDirectory(cacheDir);
    this.#content = sharing?.content ?? null;
    this.#sharing = sharing !== null;
    this.#log = log;
    this.#counters = {
      kept: metrics.counter('profilesFoundKept'),
      shared: metrics.counter('profilesFoundShared'),
      attached: metrics.counter('profilesFoundAttached'),
      none: metrics.counter('profilesNotFound'),
      refused: metrics.counter('profilesRefused'),
      failed: metrics.counter('profileLookupsFailed'),
      published: metrics.counter('profilesPublished'),
      notPublished: metrics.counter('profilesNotPublished'),
    };
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

  /**
   * For a mount that found none kept: what other machines have shared, else what is attached to the image in its registry. Never rejects.
   * @param ask null: the image is in no registry, or nothing of it is missing
   * @param onLate called when the profile comes late, or not at all
   */
  async findElsewhere(
    name: StartName,
    image: Image,
    ask: AskRegistry | null,
    onLate: () => void,
  ): Promise<FoundProfile | null> {
    if (!this.#sharing) {
      onLate();
      return null;
    }
    const shared = this.#shared(name, image);
    const late = new Promise<null>((resolve) => setTimeout(resolve, SHARED_FIRST_MS, null).unref());
    const soon = await Promise.race([shared, late]);
    let attached: Promise<RecordedProfile | null> | null = null;
    if (soon === null) {
      onLate();
      if (ask !== null) attached = this.#fromRegistry(name, image, ask);
    }
    const found = await shared;
    if (found !== null) {
      this.#counters.shared.add();
      return { profile: found, from: 'shared' };
    }
    const last = await attached;
    (last === null ? this.#counters.none : this.#counters.attached).add();
    return last === null ? null : { profile: last, from: 'registry' };
  }

  /** What is known of a command's starts, from wherever there is more: for `clipctl optimize`. Never rejects. */
  async best(name: StartName, image: Image, ask: AskRegistry): Promise<RecordedProfile | null> {
    const near = moreOf(this.#keptOrNone(name, image), await this.#shared(name, image));
    return near ?? this.#fromRegistry(name, image, ask);
  }

  /** All that is kept of an image, by the ids of its commands: for `clipctl push`. @throws ClipError: damaged, or not this user's */
  keptOf(image: Image): Map<string, RecordedProfile> {
    const found = new Map<string, RecordedProfile>();
    const directory = this.#open();
    if (directory === null) return found;
    try {
      const prefix = fileName({ manifestDigest: image.manifestDigest, command: '' }).replace(/\.json$/, '');
      for (const file of readdirSync(directory.at('.')).sort()) {
        const id = file.startsWith(prefix) ? file.slice(prefix.length).replace(/\.json$/, '') : '';
        if (!PROFILE_ID.test(id)) continue;
        const text = directory.read(file);
        const path = join(this.#directory, file);
        if (text !== null) found.set(id, fitting(parseProfile(text, path), image, path));
      }
      return found;
    } finally {
      directory.close();
    }
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
      const own = kept === undefined ? this.#base(name, image) : kept;
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
    const directory = this.#open();
    if (directory === null) return null;
    try {
      const text = directory.read(fileName(name));
      return text === null ? null : fitting(parseProfile(text, this.path(name)), image, this.path(name));
    } finally {
      directory.close();
    }
  }

  /** null: nothing was ever kept. */
  #open(): OwnDirectory | null {
    try {
      return OwnDirectory.open(this.#directory);
    } catch (error) {
      if (error instanceof ClipError && error.code === 'NOT_FOUND') return null;
      throw error;
    }
  }

  /** To what a start is added: what is kept, or what the image had with it. */
  #base(name: StartName, image: Image): RecordedProfile | null {
    const attached = this.#attached.get(fileName(name));
    const base = moreOf(this.#keptOrNone(name, image), attached?.found ?? null);
    if (attached !== undefined) attached.found = null; // it is kept from now on
    return base;
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
      bytes = await this.#content.getNamed(key, MAX_PROFILE_BYTES, routingKey(name), LOOKUP_MS);
    } catch (error) {
      this.#counters.failed.add();
      this.#log.warn({ profile: key, error: String(error) }, 'no profile could be had from the content cache');
      return null;
    }
    return bytes === null ? null : this.#unpack(bytes, image, key);
  }

  async #fromRegistry(name: StartName, image: Image, ask: AskRegistry): Promise<RecordedProfile | null> {
    const key = fileName(name);
    const known = this.#attached.get(key);
    if (known !== undefined) return known.found;
    if (this.#attached.size >= MAX_ASKED) this.#attached.clear();
    const answer: { found: RecordedProfile | null } = { found: null };
    this.#attached.set(key, answer);
    const what = `the profile of ${name.manifestDigest} in its registry`;
    try {
      const bytes = await ask(profileId(name), MAX_PROFILE_BYTES, AbortSignal.timeout(LOOKUP_MS));
      if (bytes !== null) answer.found = this.#unpack(bytes, image, what);
    } catch (error) {
      this.#counters.failed.add();
      this.#log.warn({ error: String(error) }, `${what} could not be had`);
    }
    return answer.found;
  }

  #unpack(bytes: Uint8Array, image: Image, name: string): RecordedProfile | null {
    try {
      return unpackProfile(bytes, image, name);
    } catch (error) {
      this.#counters.refused.add();
      this.#log.warn({ profile: name, error: String(error) }, 'a shared profile is not one of this image: not used');
      return null;
    }
  }

  async #publish(content: ContentTier, name: StartName, json: string): Promise<void> {
    try {
      await content.putNamed(sharedName(name), packProfile(json), routingKey(name));
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

function fileName(name: StartName): string {
  return `${name.manifestDigest.replace(/^\w+:/, '')}-${profileId(name)}.json`;
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
