import type { Logger } from '../metrics/index.js';
import type { KeptProfiles, StartName, UnpublishedStart } from './kept-profiles.js';
import { type RecordedProfile, startsOf } from './profile.js';
import { addStart } from './profile-merge.js';
import type { SharedProfiles } from './shared-profiles.js';

/** A content cache that could not be asked is asked again after so long, then after twice as long each time. */
const FIRST_PAUSE_S = 2;
/** That is for half an hour. Then the next server of this machine does it. */
const MAX_TRIES = 11;

export interface PublisherCounters {
  readonly published: { add(): void };
  readonly notPublished: { add(): void };
}

/** One recording: its last state counts. */
interface Publication {
  /** Added up, and the start alone, which is added to what others have added up if that is more. */
  latest: { readonly mine: RecordedProfile; readonly start: UnpublishedStart; readonly text: string } | null;
  /** What others had added up before; undefined: not asked yet. */
  theirs: RecordedProfile | null | undefined;
  failures: number;
  timer: NodeJS.Timeout | null;
  running: Promise<void> | null;
}

/**
 * Hands starts on to other machines. A start stays on the disk until that was done: neither a content cache that is away at the moment nor the end of
 * this server loses it. What is there is replaced by the sum: if two machines do so at once, one start is lost, and comes again.
 */
export class ProfilePublisher {
  readonly #shared: SharedProfiles;
  readonly #kept: KeptProfiles;
  readonly #log: Logger;
  readonly #counters: PublisherCounters;
  readonly #publications = new Set<Publication>();
  /** By command of an image; the last one's sum has the earlier ones in it. */
  readonly #last = new Map<string, Publication>();

  constructor(shared: SharedProfiles, kept: KeptProfiles, log: Logger, counters: PublisherCounters) {
    this.#shared = shared;
    this.#kept = kept;
    this.#log = log;
    this.#counters = counters;
  }

  /** A recording begins. What is returned takes its state each time that it has been kept: the sum with earlier starts, and the start alone. */
  begin(): (mine: RecordedProfile, start: UnpublishedStart) => void {
    const publication: Publication = { latest: null, theirs: undefined, failures: 0, timer: null, running: null };
    return (mine, start) => this.#offer(publication, mine, start);
  }

  /** What an earlier server could not publish. */
  resume(): void {
    for (const unpublished of this.#kept.unpublished()) {
      const { name, image, start } = unpublished;
      if (this.#last.has(keyOf(name))) continue;
      let mine: RecordedProfile | null = null;
      try {
        mine = this.#kept.read(name, image);
      } catch {
        // A mount that looks for it says what is wrong with it.
      }
      this.begin()(mine ?? addStart(null, start), unpublished);
    }
  }

  /** Resolves when nothing is on its way; what waits for the cache to come back stays on the disk. */
  async idle(): Promise<void> {
    for (const publication of this.#publications) {
      if (publication.timer !== null) clearTimeout(publication.timer);
    }
    await Promise.all([...this.#publications].map(({ running }) => running));
  }

  #offer(publication: Publication, mine: RecordedProfile, start: UnpublishedStart): void {
    const key = keyOf(start.name);
    const before = this.#last.get(key);
    if (before !== undefined && before !== publication) this.#giveUp(before);
    this.#last.set(key, publication);
    publication.latest = { mine, start, text: this.#kept.keepUnpublished(start) };
    this.#publications.add(publication);
    if (publication.timer === null) this.#run(publication);
  }

  /** Another one takes its place, or the next server. */
  #giveUp(publication: Publication): void {
    if (publication.timer !== null) clearTimeout(publication.timer);
    publication.timer = null;
    publication.latest = null;
    this.#forget(publication);
  }

  #forget(publication: Publication): void {
    this.#publications.delete(publication);
    for (const [key, last] of this.#last) if (last === publication) this.#last.delete(key);
  }

  #run(publication: Publication): void {
    publication.running ??= this.#publish(publication).finally(() => {
      publication.running = null;
      if (publication.latest === null) this.#forget(publication);
      else if (publication.timer === null) this.#run(publication);
    });
  }

  async #publish(publication: Publication): Promise<void> {
    const { latest } = publication;
    if (latest === null) return;
    const { mine, start, text } = latest;
    const { name, image } = start;
    try {
      if (publication.theirs === undefined) publication.theirs = await this.#shared.find(name, image);
      const { theirs } = publication;
      const more = theirs !== null && startsOf(theirs) >= startsOf(mine) ? addStart(theirs, start.start) : null;
      const json = JSON.stringify(more ?? mine);
      if (more !== null) this.#kept.keep(name, json);
      await this.#shared.put(name, json);
      publication.failures = 0;
      this.#counters.published.add();
    } catch (error) {
      this.#failed(publication, error);
      return;
    }
    if (publication.latest !== latest) return;
    publication.latest = null;
    this.#kept.removeUnpublished(name, text);
  }

  #failed(publication: Publication, error: unknown): void {
    this.#counters.notPublished.add();
    const last = publication.failures + 1 === MAX_TRIES;
    const seconds = FIRST_PAUSE_S * 2 ** publication.failures++;
    const fields = { error: String(error), ...(last ? {} : { again: `in ${seconds} s` }) };
    this.#log.warn(fields, 'a profile could not be put into the content cache');
    publication.theirs = undefined; // others may have added to it meanwhile
    if (last) this.#giveUp(publication);
    else if (publication.latest !== null) this.#retry(publication, seconds);
  }

  #retry(publication: Publication, seconds: number): void {
    publication.timer = setTimeout(() => {
      publication.timer = null;
      this.#run(publication);
    }, seconds * 1000).unref();
  }
}

function keyOf({ manifestDigest, command }: StartName): string {
  return `${manifestDigest} ${command}`;
}
