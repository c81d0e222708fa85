import { closeSync, constants, existsSync, openSync, readSync, statSync } from 'node:fs';
import { basename } from 'node:path';
import { MAGIC } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';

/** A registry's name by mistake; `docker://` is none. */
const WEB = /^https?:\/\//;
/** Of `oci:DIR` and the like, which name images on this disk. */
const IMAGE_SCHEME = /^(?:oci|oci-archive|docker-archive|docker):/;

/**
 * Whether an argument that may be either names an archive. A path does (no image reference begins with a dot, a slash or a tilde), a
 * name that ends as archives end, a URL, and an archive in the current directory, whatever its name.
 */
export function looksLikeArchive(text: string): boolean {
  if (IMAGE_SCHEME.test(text) || WEB.test(text)) return false;
  if (/^[./~]/.test(text) || /\.r?clip$/.test(text) || /^[a-z0-9]+:\/\//.test(text)) return true;
  return startsAsArchive(text) || isFileWithExtension(text);
}

/** "notes.html" is what lies here rather than an image of Docker Hub. */
function isFileWithExtension(text: string): boolean {
  return /\.\w+$/.test(text) && statSync(text, { throwIfNoEntry: false })?.isFile() === true;
}

/** @throws ClipError USAGE for an archive in the place of an image that is to be indexed */
export function refuseArchive(text: string): void {
  const named = !text.includes('/') && /\.r?clip$/.test(text);
  if (!named && !startsAsArchive(text)) return;
  throw new ClipError('USAGE', `${text} is an archive, not an image`, {
    hint: `clipctl mount ${text} DIR mounts it; clipctl index IMAGE -o ${text} writes it`,
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
