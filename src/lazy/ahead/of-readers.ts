import type { Nid } from '../../bytes/index.js';
import type { TouchRecord } from '../../spans/index.js';
import { Follower } from './by-reference.js';
import type { FollowedImage, LayerPiece } from './followed-image.js';
import { type SpeculatedImage, Speculator } from './speculator.js';

/** What is fetched ahead of a mount's readers: what the files lead to that they wait for, and what they are likely to come to besides. */
export class AheadOfReaders {
  #follower: Follower | null = null;
  /** Makes the follower; null: it was made, or there is none. */
  #makeFollower: (() => Follower | null) | null;
  #touch: readonly TouchRecord[] | null = null;
  readonly #speculator: Speculator;
  readonly #onFault: (error: unknown) => void;

  /** @param followed asked when references are first needed, for an image's take a while to read; null: none are known, or wanted */
  constructor(image: Omit<SpeculatedImage, 'referredBytes'>, followed: (() => FollowedImage | null) | null) {
    const { onFault } = image;
    this.#onFault = onFault;
    this.#makeFollower = () => {
      const followedImage = followed?.() ?? null;
      if (followedImage === null) return null;
      return new Follower(followedImage, {
        onRead: (layer, span, known) => this.#speculator.onRead(layer, span, known),
        onCode: (nid, code) => this.#speculator.onOpened(nid, code),
      });
    };
    this.#speculator = new Speculator({ ...image, referredBytes: () => this.#follower?.unreadBytes() ?? 0 });
  }

  #following(): Follower | null {
    const make = this.#makeFollower;
    if (make === null) return this.#follower;
    this.#makeFollower = null;
    try {
      this.#follower = make();
    } catch (error) {
      this.#onFault(error);
    }
    if (this.#touch !== null) this.#follower?.watch(this.#touch);
    return this.#follower;
  }

  /** A reader waits for bytes of a file, which lie in these pieces. */
  onMiss(nid: Nid, pieces: readonly LayerPiece[]): void {
    // What is known comes before what is guessed.
    this.#following()?.onMiss(nid, pieces);
    try {
      this.#speculator.onMiss(nid, pieces);
    } catch (error) {
      this.#speculator.close();
      this.#onFault(error);
    }
  }

  /** A command names these files: they will be read soon. */
  onNamed(files: () => readonly Nid[]): void {
    this.#following()?.onNamed(files);
  }

  /** @param touch  what readers touch, by layer index */
  watch(touch: readonly TouchRecord[]): void {
    this.#touch = touch;
    this.#follower?.watch(touch);
  }

  /** Cancels spans that no reader has read; readers still get those they wait for. */
  close(): void {
    this.#makeFollower = null;
    this.#follower?.close();
    this.#speculator.close();
  }
}
