import type { Archive, Profile } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import { type AheadProgress, type LayerClaim, type LayerSet, profileSpans } from '../lazy/index.js';
import type { Logger } from '../metrics/index.js';
import type { PrefetchState, PrefetchWish } from '../wire/index.js';
import { rangesOfFiles } from './file-selection.js';

interface Task {
  readonly id: string;
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

  constructor(archive: Archive, layers: readonly LayerClaim[], set: LayerSet, log: Logger) {
    this.#archive = archive;
    this.#layers = layers;
    this.#set = set;
    this.#log = log;
  }

  /** The prefetches with which a mount begins. */
  begin(options: { readonly profile: boolean; readonly fill: boolean }): void {
    const { profile } = this.#archive;
    const first = options.profile && profile !== null ? this.#run({ what: 'profile' }, profile, true) : null;
    if (options.fill) void this.#fillAfter(first);
  }

  async #fillAfter(first: { task: Task; finished: Promise<void> } | null): Promise<void> {
    await first?.finished;
    if (first?.task.abort.signal.aborted !== true) this.#run({ what: 'image', background: true }, null, true);
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
    let profile: Pick<Profile, 'layer' | 'span'> | null = null;
    if (wish.what === 'profile') {
      profile = this.#archive.profile;
      if (profile === null) {
        throw new ClipError('NOT_FOUND', `the archive of ${this.#archive.image.reference} holds no profile`, {
          hint: 'clipctl optimize makes one that does; without --profile the whole image is fetched',
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
    spans: Pick<Profile, 'layer' | 'span'> | null,
    ofMount: boolean,
  ): { task: Task; finished: Promise<void> } {
    const abort = new AbortController();
    const { signal } = abort;
    let running: { progress: AheadProgress; finished: Promise<void> };
    if (spans !== null) running = this.#set.prefetch(this.#layers, spans, signal);
    else {
      const { background, bytesPerSecond } = wish as Extract<PrefetchWish, { what: 'image' }>;
      running = this.#set.fill(this.#layers, {
        signal,
        ...(background === true
          ? { patient: true }
          : { quietMs: 0, bytesPerSecond: bytesPerSecond ?? Number.MAX_SAFE_INTEGER }),
      });
    }
    const id = `${process.pid}.${nextId++}`;
    const task: Task = { id, wish, abort, progress: running.progress, startedAt: new Date(), ofMount, ended: false };
    this.#tasks.push(task);
    const finished = running.finished.then(() => {
      task.ended = true;
      const ended = this.#tasks.filter((other) => other.ended);
      const old = new Set(ended.slice(0, Math.max(0, ended.length - MAX_ENDED)));
      this.#tasks = this.#tasks.filter((other) => !old.has(other));
      const { state, what, reason, spans: counts, bytes } = stateOf(task);
      this.#log.info({ what, state, reason, ...counts, bytes: bytes.done }, 'prefetched');
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
        ? `${failed} spans could not be fetched: the log of clipd says why`
        : 'the cache has no room for more (--cache-size is its cap), or its disk takes no writes';
  return {
    id: task.id,
    what: wish.what,
    ...(wish.what === 'paths' ? { paths: wish.paths } : {}),
    state: cancelled ? 'cancelled' : !task.ended ? 'running' : reason === undefined ? 'done' : 'incomplete',
    ...(reason === undefined ? {} : { reason }),
    spans: { total, done, failed },
    bytes: { total: progress.totalBytes, done: progress.doneBytes },
    startedAt: task.startedAt.toISOString(),
  };
}
