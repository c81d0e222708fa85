import { createHash } from 'node:crypto';
import { basename, dirname, join } from 'node:path';
import type { ImageMeta } from '../archive/index.js';
import { PROFILE_FORMAT, type RecordedProfile, touchedRanges } from '../lazy/index.js';
import type { Logger } from '../metrics/index.js';
import { OwnDirectory } from '../paths/index.js';
import { newTouchRecords, recording, stopRecording, type TouchRecord } from '../spans/index.js';

/** A program has started by then. Its later reads depend on its work, which no profile can foresee. */
const RECORD_MS = 60_000;

/** One file per image and entrypoint: the same layers start differently under another command. */
export function profileName(image: Pick<ImageMeta, 'manifestDigest' | 'config'>): string {
  const { Entrypoint, Cmd } = (image.config.config ?? {}) as Record<string, unknown>;
  const command = createHash('sha256')
    .update(JSON.stringify([Entrypoint ?? [], Cmd ?? []]))
    .digest('hex');
  return `${image.manifestDigest.replace(/^\w+:/, '')}-${command.slice(0, 12)}.json`;
}

/** What the readers of one mount touch first, from its start until it is stopped or its time is up. */
export class Recording {
  readonly touch: readonly TouchRecord[];
  readonly #image: ImageMeta;
  readonly #path: string;
  readonly #log: Logger;
  readonly #timer: NodeJS.Timeout;
  #profile: RecordedProfile | null = null;

  private constructor(touch: readonly TouchRecord[], image: ImageMeta, directory: string, log: Logger) {
    this.touch = touch;
    this.#image = image;
    this.#path = join(directory, profileName(image));
    this.#log = log;
    this.#timer = setTimeout(() => this.stop(), RECORD_MS).unref();
  }

  /** Null when the image is too large to be recorded. */
  static begin(image: ImageMeta, directory: string, log: Logger): Recording | null {
    const touch = newTouchRecords(image.layers.map((layer) => layer.uncompressedSize));
    return touch === null ? null : new Recording(touch, image, directory, log);
  }

  get active(): boolean {
    return this.#profile === null && this.touch.length > 0 && recording(this.touch[0]!);
  }

  /** Where it is kept. */
  get path(): string {
    return this.#path;
  }

  /** Ends the recording, the first time it is called, and keeps the profile. A mount without a read leaves the last profile in place. */
  stop(): RecordedProfile {
    if (this.#profile !== null) return this.#profile;
    clearTimeout(this.#timer);
    for (const record of this.touch) stopRecording(record);
    const { manifestDigest, layers } = this.#image;
    const ranges = touchedRanges(
      this.touch,
      layers.map((layer) => layer.uncompressedSize),
    );
    this.#profile = { format: PROFILE_FORMAT, manifestDigest, layers: layers.map((layer) => layer.digest), ranges };
    if (ranges.length > 0) this.#keep(this.#profile);
    return this.#profile;
  }

  /** A cache directory that cannot be written costs the profile, not the mount. */
  #keep(profile: RecordedProfile): void {
    try {
      const directory = OwnDirectory.open(dirname(this.#path), { make: true });
      try {
        directory.replace(basename(this.#path), `${JSON.stringify(profile)}\n`);
      } finally {
        directory.close();
      }
    } catch (error) {
      this.#log.warn({ path: this.#path, error: String(error) }, 'the profile cannot be kept');
    }
  }
}
