import { createHash } from 'node:crypto';
import type { ImageMeta } from '../archive/index.js';
import type { ContentTier } from '../cache/index.js';
import type { Logger, Metrics } from '../metrics/index.js';
import { KeptProfiles, profileId, type StartName } from './kept-profiles.js';
import { type RecordedProfile, startsOf } from './profile.js';
import { addStart } from './profile-merge.js';
import { ProfilePublisher } from './profile-publisher.js';
import { LOOKUP_MS, MAX_PROFILE_BYTES, SharedProfiles, unpackOrRefuse } from './shared-profiles.js';

type Image = Pick<ImageMeta, 'manifestDigest' | 'config' | 'layers'>;

/** `command`: of a container that does not run the image's own. */
export function startName(image: Image, command?: string): StartName {
  const { Entrypoint, Cmd } = (image.config.config ?? {}) as Record<string, unknown>;
  const own = createHash('sha256').update(JSON.stringify([Entrypoint ?? [], Cmd ?? []]));
  return { manifestDigest: image.manifestDigest, command: command ?? own.digest('hex') };
}

/** Registries that a server remembers to have asked, by image and command. */
const MAX_ASKED = 512;
/** What the archive derives from the image's command waits this long for a profile that a content cache has. */
const SHARED_FIRST_MS = 50;

/** Asks an image's registry for the profile that is attached to it, packed; null: there is none. `command`: {@link profileId}. */
export type AskRegistry = (command: string, limit: number, signal: AbortSignal) => Promise<Uint8Array | null>;

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
 * Profiles of earlier starts: kept in the cache directory; shared through the content cache; and attached to images in their registries by
 * `clipctl push --profiles`. Those of others are not trusted: their size is bounded before memory is allocated for it, their ranges are
 * compared with the image's layers, and what they name costs at most some fetched bytes that no reader reads (docs/security.md, "Shared
 * caches").
 */
export class ProfileStore {
  readonly #kept: KeptProfiles;
  readonly #shared: SharedProfiles | null;
  readonly #publisher: ProfilePublisher | null;
  readonly #log: Logger;
  readonly #counters;
  readonly #sharing: boolean;
  /** What registries have answered, by the kept file's path: each is asked once. */
  readonly #attached = new Map<string, { found: RecordedProfile | null }>();

  /** @param sharing null: profiles of other machines are not looked for, and none is shared */
  constructor(cacheDir: string, sharing: ProfileSharing | null, log: Logger, metrics: Metrics) {
    this.#kept = new KeptProfiles(cacheDir, log);
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
    const content = sharing?.content ?? null;
    this.#shared = content === null ? null : new SharedProfiles(content, log, this.#counters.refused);
    this.#publisher =
      this.#shared === null ? null : new ProfilePublisher(this.#shared, this.#kept, log, this.#counters);
  }

  /** Where it is kept. */
  path(name: StartName): string {
    return this.#kept.path(name);
  }

  /** For a mount: what this machine has kept. Null: nothing. */
  findKept(name: StartName, image: Image): RecordedProfile | null {
    try {
      const found = this.#kept.read(name, image);
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
    const shared = this.#findShared(name, image);
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
    const near = moreOf(this.#keptOrNone(name, image), await this.#findShared(name, image));
    return near ?? this.#fromRegistry(name, image, ask);
  }

  /** All that is kept of an image, by the ids of its commands: for `clipctl push`. @throws ClipError: damaged, or not this user's */
  keptOf(image: Image): Map<string, RecordedProfile> {
    return this.#kept.all(image);
  }

  /**
   * Adds a start to what is known, each time that its recording is handed over, in place of what was handed over before. What this machine knows is
   * kept at once. What is shared follows.
   */
  begin(name: StartName, image: Image): (start: RecordedProfile) => void {
    let base: RecordedProfile | null | undefined;
    const publish = this.#publisher?.begin();
    return (start) => {
      if (base === undefined) base = this.#base(name, image);
      const mine = addStart(base, start);
      this.#kept.keep(name, JSON.stringify(mine));
      publish?.(mine, { name, image, start });
    };
  }

  /** Publishes what an earlier server of this cache directory could not. */
  resume(): void {
    this.#publisher?.resume();
  }

  /** Resolves when all has been published, at the latest after `ms`. No further tries are made. */
  async idle(ms: number): Promise<void> {
    if (this.#publisher === null) return;
    await Promise.race([this.#publisher.idle(), new Promise((resolve) => setTimeout(resolve, ms).unref())]);
  }

  /** To what a start is added: what is kept, or what the image had with it. */
  #base(name: StartName, image: Image): RecordedProfile | null {
    const attached = this.#attached.get(this.path(name));
    const base = moreOf(this.#keptOrNone(name, image), attached?.found ?? null);
    if (attached !== undefined) attached.found = null; // it is kept from now on
    return base;
  }

  /** Beside it a new one is made: what is wrong with it was told when the mount looked for it. */
  #keptOrNone(name: StartName, image: Image): RecordedProfile | null {
    try {
      return this.#kept.read(name, image);
    } catch {
      return null;
    }
  }

  async #findShared(name: StartName, image: Image): Promise<RecordedProfile | null> {
    if (this.#shared === null) return null;
    try {
      return await this.#shared.find(name, image);
    } catch (error) {
      this.#counters.failed.add();
      const fields = { image: name.manifestDigest, error: String(error) };
      this.#log.warn(fields, 'no profile could be had from the content cache');
      return null;
    }
  }

  async #fromRegistry(name: StartName, image: Image, ask: AskRegistry): Promise<RecordedProfile | null> {
    const key = this.path(name);
    const known = this.#attached.get(key);
    if (known !== undefined) return known.found;
    if (this.#attached.size >= MAX_ASKED) this.#attached.clear();
    const answer: { found: RecordedProfile | null } = { found: null };
    this.#attached.set(key, answer);
    const what = `the profile of ${name.manifestDigest} in its registry`;
    try {
      const bytes = await ask(profileId(name), MAX_PROFILE_BYTES, AbortSignal.timeout(LOOKUP_MS));
      if (bytes !== null) answer.found = unpackOrRefuse(bytes, image, what, this.#log, this.#counters.refused);
    } catch (error) {
      this.#counters.failed.add();
      this.#log.warn({ error: String(error) }, `${what} could not be had`);
    }
    return answer.found;
  }
}

function moreOf(kept: RecordedProfile | null, shared: RecordedProfile | null): RecordedProfile | null {
  return startsOf(shared) > startsOf(kept) ? shared : kept;
}
