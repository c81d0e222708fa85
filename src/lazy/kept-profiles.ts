import { readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { ImageMeta } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import type { Logger } from '../metrics/index.js';
import { OwnDirectory } from '../paths/index.js';
import { parseProfile, profilesDirectory, type RecordedProfile } from './profile.js';

/** A command of an image: starts are alike, and share a profile, if both are the same. */
export interface StartName {
  readonly manifestDigest: string;
  /** SHA-256 of the command's words, in hex. */
  readonly command: string;
}

/** What is known of an image that a profile may be of. */
export interface ProfiledImage {
  readonly manifestDigest: string;
  readonly layers: readonly Pick<ImageMeta['layers'][number], 'digest' | 'uncompressedSize'>[];
}

/** A start that other machines are to hear of. */
export interface UnpublishedStart {
  readonly name: StartName;
  readonly image: ProfiledImage;
  readonly start: RecordedProfile;
}

/** Profiles that a cache directory keeps; those that were kept last. Commands may differ in each start. */
const MAX_KEPT = 512;

/** A command in names of files and tags. */
export function profileId({ command }: StartName): string {
  return command.slice(0, 12);
}
const PROFILE_ID = /^[0-9a-f]{12}$/;
const COMMAND = /^[0-9a-f]{64}$/;

/** Without its ending: ".json" of a profile, ".start" of a start that was not published yet. */
function fileName(name: StartName): string {
  return `${name.manifestDigest.replace(/^\w+:/, '')}-${profileId(name)}`;
}

/** Profiles of earlier starts in the cache directory, one file a command of an image, and beside it the last start until it was published. */
export class KeptProfiles {
  readonly #directory: string;
  readonly #log: Logger;

  constructor(cacheDir: string, log: Logger) {
    this.#directory = profilesDirectory(cacheDir);
    this.#log = log;
  }

  /** Where it is kept. */
  path(name: StartName): string {
    return join(this.#directory, `${fileName(name)}.json`);
  }

  /** @throws ClipError, Node's error: it is damaged, or is not this user's */
  read(name: StartName, image: ProfiledImage): RecordedProfile | null {
    const path = this.path(name);
    const text = this.#within((directory) => directory.read(`${fileName(name)}.json`));
    return text === null ? null : fitting(parseProfile(text, path), image, path);
  }

  /** All of an image, by the ids of its commands. @throws ClipError: damaged, or not this user's */
  all(image: ProfiledImage): Map<string, RecordedProfile> {
    const found = new Map<string, RecordedProfile>();
    const prefix = fileName({ manifestDigest: image.manifestDigest, command: '' });
    this.#within((directory) => {
      for (const file of namesIn(directory, '.json').sort()) {
        const id = file.startsWith(prefix) ? file.slice(prefix.length, -'.json'.length) : '';
        if (!PROFILE_ID.test(id)) continue;
        const text = directory.read(file);
        const path = join(this.#directory, file);
        if (text !== null) found.set(id, fitting(parseProfile(text, path), image, path));
      }
      return null;
    });
    return found;
  }

  /** A cache directory that cannot be written costs the profile, not the mount. */
  keep(name: StartName, json: string): void {
    this.#write(name, '.json', `${json}\n`);
  }

  /** Until it is removed, a server that begins finds it. @returns its text */
  keepUnpublished({ name, image, start }: UnpublishedStart): string {
    const { manifestDigest, layers } = image;
    const sizes = layers.map(({ digest, uncompressedSize }) => ({ digest, uncompressedSize }));
    const text = JSON.stringify({ command: name.command, image: { manifestDigest, layers: sizes }, start });
    this.#write(name, '.start', text);
    return text;
  }

  /** It was published, unless there is a later one by now. */
  removeUnpublished(name: StartName, text: string): void {
    const file = `${fileName(name)}.start`;
    try {
      this.#within((directory) => {
        if (directory.read(file) === text) rmSync(directory.at(file), { force: true });
        return null;
      });
    } catch (error) {
      this.#log.warn(
        { path: join(this.#directory, file), error: String(error) },
        'a published start cannot be removed',
      );
    }
  }

  /** Those that an earlier server could not publish. Never throws: a damaged one is removed. */
  unpublished(): UnpublishedStart[] {
    const found: UnpublishedStart[] = [];
    const add = (directory: OwnDirectory, file: string): void => {
      const path = join(this.#directory, file);
      try {
        const start = parseUnpublished(directory.read(file) ?? '', path);
        if (`${fileName(start.name)}.start` === file) found.push(start);
      } catch (error) {
        this.#log.warn({ path, error: String(error) }, 'a start that was not published cannot be read: removed');
        rmSync(directory.at(file), { force: true });
      }
    };
    try {
      this.#within((directory) => {
        for (const file of namesIn(directory, '.start')) add(directory, file);
        return null;
      });
    } catch (error) {
      this.#log.warn({ path: this.#directory, error: String(error) }, 'the kept profiles cannot be read');
    }
    return found;
  }

  #write(name: StartName, ending: string, text: string): void {
    const file = `${fileName(name)}${ending}`;
    try {
      const directory = OwnDirectory.open(this.#directory, { make: true });
      try {
        directory.replace(file, text, { durable: false });
        const names = namesIn(directory, ending);
        if (names.length <= MAX_KEPT) return;
        const aged = names.map((entry) => ({ entry, at: statSync(directory.at(entry)).mtimeMs }));
        aged.sort((a, b) => b.at - a.at);
        for (const { entry } of aged.slice(MAX_KEPT)) rmSync(directory.at(entry), { force: true });
      } finally {
        directory.close();
      }
    } catch (error) {
      this.#log.warn({ path: join(this.#directory, file), error: String(error) }, 'the profile cannot be kept');
    }
  }

  /** null also when nothing was ever kept. */
  #within<T>(work: (directory: OwnDirectory) => T): T | null {
    let directory: OwnDirectory;
    try {
      directory = OwnDirectory.open(this.#directory);
    } catch (error) {
      if (error instanceof ClipError && error.code === 'NOT_FOUND') return null;
      throw error;
    }
    try {
      return work(directory);
    } finally {
      directory.close();
    }
  }
}

function namesIn(directory: OwnDirectory, ending: string): string[] {
  return readdirSync(directory.at('.')).filter((entry) => entry.endsWith(ending));
}

/** @throws ClipError BAD_FORMAT, SyntaxError */
function parseUnpublished(text: string, path: string): UnpublishedStart {
  const bad = (detail: string): ClipError => new ClipError('BAD_FORMAT', `${path}: ${detail}`);
  const { command, image, start } = JSON.parse(text) as Partial<{
    command: unknown;
    image: Partial<ProfiledImage>;
    start: unknown;
  }>;
  if (typeof command !== 'string' || !COMMAND.test(command)) throw bad('no command');
  const { manifestDigest, layers } = image ?? {};
  if (typeof manifestDigest !== 'string' || !Array.isArray(layers)) throw bad('no image');
  for (const layer of layers as Partial<ProfiledImage['layers'][number]>[]) {
    const { digest, uncompressedSize } = layer ?? {};
    if (typeof digest !== 'string' || !Number.isSafeInteger(uncompressedSize)) throw bad('no layers');
  }
  const of = { manifestDigest, layers: layers as ProfiledImage['layers'] };
  return {
    name: { manifestDigest, command },
    image: of,
    start: fitting(parseProfile(JSON.stringify(start ?? null), path), of, path),
  };
}

/** @throws ClipError BAD_FORMAT when it is of another image, or names bytes that the image has not */
export function fitting(
  profile: RecordedProfile,
  { manifestDigest, layers }: ProfiledImage,
  name: string,
): RecordedProfile {
  const bad = (detail: string): ClipError => new ClipError('BAD_FORMAT', `${name}: ${detail}`);
  if (profile.manifestDigest !== manifestDigest) throw bad('it is of another image');
  if (profile.layers.join() !== layers.map((layer) => layer.digest).join()) throw bad('its layers are others');
  const wrong = profile.ranges.findIndex(({ layer, end }) => end > layers[layer]!.uncompressedSize);
  if (wrong >= 0) throw bad(`range ${wrong} is beyond the end of its layer`);
  return profile;
}
