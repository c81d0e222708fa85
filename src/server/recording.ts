import type { ImageMeta } from '../archive/index.js';
import {
  PROFILE_FORMAT,
  type ProfileStore,
  type RecordedProfile,
  type StartName,
  touchedRanges,
} from '../lazy/index.js';
import { newTouchRecords, stopRecording, type TouchRecord } from '../spans/index.js';

/**
 * When what was read so far is kept and published, in seconds after the first read. Early, because the next machine may start a
 * moment later; again, because a start may be slow. With the last one the recording ends: a program has started by then, and what it reads
 * later depends on its work, which no profile can foresee.
 */
const KEEP_SECONDS = [2, 4, 8, 16, 32, 60] as const;
/** FUSE workers note reads in shared memory and send no message: all recordings are looked at this often. */
const LOOK_MS = 500;

const active = new Set<Recording>();
let timer: NodeJS.Timeout | null = null;

/** What the readers of one mount touch first, from its first read until it is stopped or its time is up. */
export class Recording {
  readonly touch: readonly TouchRecord[];
  readonly #image: ImageMeta;
  /** Where it is kept, together with earlier starts. */
  readonly path: string;
  #profile: RecordedProfile | null = null;
  readonly #keep: (profile: RecordedProfile) => void;
  #firstTouch: number | null = null;
  #looks = 0;
  /** Touches when it was last kept. */
  #kept = 0;

  private constructor(touch: readonly TouchRecord[], image: ImageMeta, name: StartName, store: ProfileStore) {
    this.touch = touch;
    this.#image = image;
    this.path = store.path(name);
    this.#keep = store.begin(name, image);
    active.add(this);
    timer ??= setInterval(() => {
      for (const one of active) one.#look();
    }, LOOK_MS).unref();
  }

  /** Null when the image is too large to be recorded. */
  static begin(image: ImageMeta, name: StartName, store: ProfileStore): Recording | null {
    const touch = newTouchRecords(image.layers.map((layer) => layer.uncompressedSize));
    return touch === null || touch.length === 0 ? null : new Recording(touch, image, name, store);
  }

  get #touches(): number {
    return Atomics.load(this.touch[0]!.clock, 0);
  }

  #look(): void {
    if (this.#touches === 0) return;
    const now = performance.now();
    this.#firstTouch ??= now;
    if (now < this.#firstTouch + KEEP_SECONDS[this.#looks]! * 1000) return;
    this.#looks++;
    if (this.#looks === KEEP_SECONDS.length) this.stop();
    else this.#keepIfMore(this.#recorded);
  }

  /** Ends the recording, the first time it is called, and keeps the profile. A mount without a read leaves the last profile in place. */
  stop(): RecordedProfile {
    if (this.#profile !== null) return this.#profile;
    active.delete(this);
    if (active.size === 0 && timer !== null) {
      clearInterval(timer);
      timer = null;
    }
    for (const record of this.touch) stopRecording(record);
    const profile = this.#recorded();
    this.#profile = profile;
    this.#keepIfMore(() => profile);
    return profile;
  }

  #keepIfMore(recorded: () => RecordedProfile): void {
    const touches = this.#touches;
    if (touches === this.#kept) return;
    this.#kept = touches;
    this.#keep(recorded());
  }

  readonly #recorded = (): RecordedProfile => {
    const { manifestDigest, layers } = this.#image;
    const sizes = layers.map((layer) => layer.uncompressedSize);
    const ranges = touchedRanges(this.touch, sizes);
    return { format: PROFILE_FORMAT, manifestDigest, layers: layers.map((layer) => layer.digest), ranges };
  };
}
