import type { Archive, Profile } from '../archive/index.js';
import { ClipError, counted } from '../bytes/index.js';
import {
  type AheadProgress,
  expectedRanges,
  type FoundProfile,
  type LayerClaim,
  type LayerSet,
  profileSpans,
} from '../lazy/index.js';
import type { Logger } from '../metrics/index.js';
import type { PrefetchState, PrefetchWish } from '../wire/index.js';
import { rangesOfFiles } from './file-selection.js';

/** Where the profile of a prefetch comes from. */
type From = NonNullable<PrefetchState['from']>;
type Spans = Pick<Profile, 'layer' | 'span'> & { readonly from?: From };

interface Task {
  readonly id: string;
  readonly from: From | undefined;
  readonly wish: PrefetchWish;
  readonly abort: AbortController;
  readonly progress: AheadProgress;
  readonly startedAt: Date;
  /** Begun by the mount itself. */
  readonly ofMount: boolean;
  ended: boolean;
}

/** Prefetches that have ended and are remembered. */
const MAX_ENDED = 16;
/** Prefetches at once; each holds its list of spans. */
const MAX_RUNNING = 64;

let nextId = 1;

/** The prefetches of one image: those of its mount, and those of the control API. */
export class FetchAhead {
  readonly #archive: Archive;
  readonly #layers: readonly LayerClaim[];
  readonly #set: LayerSet;
  readonly #log: Logger;
  #tasks: Task[] = [];
  /** What earlier starts have read, as far as it is known. */
  #found: Spans | null = null;
  #calledOff = false;

  constructor(archive: Archive, layers: readonly LayerClaim[], set: LayerSet, log: Logger) {
    this.#archive = archive;
    this.#layers = layers;
    this.#set = set;
    this.#log = log;
  }

  /** Fetches by the archive's own profile, if it has one, as a mount begins. */
  async beginOwn(): Promise<void> {
    const { profile } = this.#archive;
    if (profile !== null) await this.#begin({ ...profile, from: 'archive' }, false);
  }

  /** Fetches by what earlier starts have read. `all`: without waiting for readers. */
  async beginFound({ profile, from }: FoundProfile, all: boolean): Promise<void> {
    const tables = this.#archive.layers.map((layer) => layer.table);
    this.#found = { ...profileSpans(expectedRanges(profile), tables), from };
    await this.#begin(this.#found, !all);
  }

  async #begin(spans: Spans, guess: boolean): Promise<void> {
    const { task, finished } = this.#run({ what: 'profile' }, spans, true, guess);
    await finished;
    if (task.abort.signal.aborted) this.#calledOff = true;
  }

  /** Fetches everything that is missing, unless what the mount began with was called off. */
  beginFill(): void {
    if (!this.#calledOff) this.#run({ what: 'image', background: true }, null, true);
  }

  /**
   * Begins to fetch; readers always go first.
   * @throws ClipError NOT_FOUND: no profile in the archive, no such file; LIMIT
   */
  async start(wish: PrefetchWish): Promise<PrefetchState> {
    if (this.#tasks.filter((task) => !task.ended).length >= MAX_RUNNING) {
      throw new ClipError('LIMIT', `${MAX_RUNNING} prefetches of this image are under way`, {
        hint: 'wait for them, or cancel them: clipctl prefetch DIR --cancel',
      });
    }
    let profile: Spans | null = null;
    if (wish.what === 'profile') {
      profile = this.#found ?? this.#archive.profile;
      if (profile === null) {
        throw new ClipError('NOT_FOUND', `no profile of ${this.#archive.image.reference} is known`, {
          hint: 'clipctl optimize makes an archive that has one; without --profile the whole image is fetched',
        });
      }
    } else if (wish.what === 'paths') {
      const tables = this.#archive.layers.map((layer) => layer.table);
      profile = profileSpans(await rangesOfFiles(this.#archive, wish.paths), tables);
    }
    return stateOf(this.#run(wish, profile, false).task);
  }

  #run(
    wish: PrefetchWish,
    spans: Spans | null,
    ofMount: boolean,
    guess = false,
  ): { task: Task; finished: Promise<void> } {
    const abort = new AbortController();
    const { signal } = abort;
    let running: { progress: AheadProgress; finished: Promise<void> };
    if (spans !== null) {
      running = this.#set.prefetch(this.#layers, spans, signal, guess);
    } else {
      const { background, bytesPerSecond } = wish as Extract<PrefetchWish, { what: 'image' }>;
      running = this.#set.fill(this.#layers, {
        signal,
        ...(background === true
          ? { patient: true }
          : { quietMs: 0, bytesPerSecond: bytesPerSecond ?? Number.MAX_SAFE_INTEGER }),
      });
    }
    const id = `${process.pid}.${nextId++}`;
    const { progress } = running;
    const task: Task = { id, wish, from: spans?.from, abort, progress, startedAt: new Date(), ofMount, ended: false };
    this.#tasks.push(task);
    const finished = running.finished.then(() => {
      task.ended = true;
      const ended = this.#tasks.filter((other) => other.ended);
      const old = new Set(ended.slice(0, Math.max(0, ended.length - MAX_ENDED)));
      this.#tasks = this.#tasks.filter((other) => !old.has(other));
      const { state, what, from, reason, spans: counts, bytes } = stateOf(task);
      this.#log.info({ what, from, state, reason, ...counts, bytes: bytes.done }, 'prefetched');
    });
    return { task, finished };
  }

  list(): PrefetchState[] {
    return this.#tasks.map(stateOf);
  }

  /**
   * Cancels one, or those that were asked for. What a mount does by itself (its profile, `--fill`) goes on unless it is named.
   * @returns those that were running
   */
  cancel(id?: string): PrefetchState[] {
    const running = this.#tasks.filter((task) => !task.ended && (id === undefined ? !task.ofMount : task.id === id));
    for (const task of running) task.abort.abort();
    return running.map(stateOf);
  }

  /** The image is not mounted any more. */
  cancelAll(): void {
    for (const task of this.#tasks) if (!task.ended) task.abort.abort();
  }
}

function stateOf(task: Task): PrefetchState {
  const { wish, progress } = task;
  const { total, done, failed } = progress;
  const cancelled = task.abort.signal.aborted;
  const reason =
    !task.ended || cancelled || done === total
      ? undefined
      : failed > 0
        ? `${counted(failed, 'span')} could not be fetched: the log of clipd says why`
        : 'the cache has no room for more (--cache-size is its cap), or its disk takes no writes';
  return {
    id: task.id,
    what: wish.what,
    ...(task.from === undefined ? {} : { from: task.from }),
    ...(wish.what === 'paths' ? { paths: wish.paths } : {}),
    state: cancelled ? 'cancelled' : !task.ended ? 'running' : reason === undefined ? 'done' : 'incomplete',
    ...(reason === undefined ? {} : { reason }),
    spans: { total, done, failed },
    bytes: { total: progress.totalBytes, done: progress.doneBytes },
    startedAt: task.startedAt.toISOString(),
  };
}
