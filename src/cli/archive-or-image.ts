import { closeSync, constants, existsSync, openSync, readSync, statSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { MAGIC } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import { ARCHIVE_ENDING, endsAsFile } from '../paths/index.js';

/** A registry's name by mistake; `docker://` is none. */
const WEB = /^https?:\/\//;
/** Of `oci:DIR` and the like, which name images on this disk. */
const IMAGE_SCHEME = /^(?:oci|oci-archive|docker-archive|docker):/;

/**
 * Whether an argument that may be either names an archive. A path does (no image reference begins with a dot, a slash or a tilde), a
 * name that ends as archives end, a URL, and an archive in the current directory, whatever its name. So does a file's name with a
 * mistake in it, {@link isMistyped}.
 */
export function looksLikeArchive(text: string): boolean {
  if (IMAGE_SCHEME.test(text) || WEB.test(text)) return false;
  if (/^[./~]/.test(text) || ARCHIVE_ENDING.test(text) || /^[a-z0-9]+:\/\//.test(text)) return true;
  return startsAsArchive(text) || isFileWithExtension(text) || isMistyped(text);
}

/** "notes.html" is what lies here rather than an image of Docker Hub. */
function isFileWithExtension(text: string): boolean {
  return /\.\w+$/.test(text) && statSync(text, { throwIfNoEntry: false })?.isFile() === true;
}

/**
 * `py.clp`, or `py.tar`: what no registry is to be asked for. Without a registry and a user it would be one of Docker Hub's official
 * images, and with them it is a path only below a directory that exists. A name with a tag or a digest is an image's.
 */
function isMistyped(text: string): boolean {
  if (/[:@]/.test(text) || !endsAsFile(text)) return false;
  return !text.includes('/') || existsSync(dirname(text));
}

/** @throws ClipError USAGE for a file in the place of an image that is to be indexed */
export function refuseFile(text: string): void {
  const named = !text.includes('/') && ARCHIVE_ENDING.test(text);
  if (named || startsAsArchive(text)) {
    throw new ClipError('USAGE', `${text} is an archive, not an image`, {
      hint: `clipctl mount ${text} DIR mounts it; clipctl index IMAGE -o ${text} writes it`,
    });
  }
  if (IMAGE_SCHEME.test(text) || /^[./~]/.test(text) || !(isFileWithExtension(text) || isMistyped(text))) return;
  throw new ClipError('USAGE', `${text} is the name of a file, not of an image`, {
    hint: `an image in a tar is named docker-archive:${text} or oci-archive:${text}; one of Docker Hub docker.io/library/${text}`,
  });
}

function startsAsArchive(path: string): boolean {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch {
    return false;
  }
  try {
    const start = Buffer.alloc(MAGIC.length);
    readSync(fd, start, 0, start.length, 0);
    return start.equals(MAGIC);
  } catch {
    return false; // a directory, a fifo
  } finally {
    closeSync(fd);
  }
}

/** `host/team/py:3.12` is kept in `py.clip` of the current directory. @throws ClipError CONFLICT: only a name that the user gave is replaced */
export function defaultArchive(reference: string): string {
  const path = reference.replace(IMAGE_SCHEME, '').replace(/@.*$/, '');
  const name = basename(path)
    .replace(/:.*$/, '')
    .replace(/\.tar$/, '');
  const file = `${name || 'image'}.clip`;
  if (existsSync(file)) {
    throw new ClipError('CONFLICT', `${file} exists already`, {
      hint: `--out ${file} replaces it, --out FILE names another`,
    });
  }
  return file;
}
