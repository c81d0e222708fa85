import { chmodSync, closeSync, mkdirSync } from 'node:fs';
import { basename, dirname, resolve } from 'node:path';
import { ClipError } from '../bytes/index.js';
import { descriptorPath, OwnDirectory, openPlace } from '../paths/index.js';

/**
 * The directory that an image is unpacked into. It is this user's, and closed to others until the image is complete: owners of the
 * image's files may be users of this machine, and must not put a link in our way.
 */
export class UnpackDirectory {
  private constructor(
    /** For people. */
    readonly path: string,
    private readonly directory: OwnDirectory,
    /** Of the directory above. */
    private readonly parent: number,
  ) {}

  /** Makes it, if it is not there. @throws ClipError NOT_FOUND, PERMISSION, SYSTEM */
  static open(given: string): UnpackDirectory {
    const path = resolve(given);
    const parent = openParent(path);
    try {
      makeIn(parent, path);
      return new UnpackDirectory(path, OwnDirectory.open(path), parent);
    } catch (error) {
      closeSync(parent);
      throw error;
    }
  }

  /** Once it is known that it is to be unpacked into: one that is refused stays as it is. */
  closeToOthers(): void {
    chmodSync(descriptorPath(this.fd, '.'), 0o700);
  }

  /** The path by which this process reaches it, whatever its own path leads to by now. */
  get root(): string {
    return descriptorPath(this.directory.fd);
  }

  get fd(): number {
    return this.directory.fd;
  }

  /** A path of a file beside it: its name with a suffix, in the directory above. */
  beside(suffix: string): string {
    return descriptorPath(this.parent, `${basename(this.path)}${suffix}`);
  }

  close(): void {
    this.directory.close();
    closeSync(this.parent);
  }
}

function openParent(path: string): number {
  try {
    return openPlace(dirname(path)).fd;
  } catch (cause) {
    if (cause instanceof ClipError) throw cause;
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT') {
      throw new ClipError('NOT_FOUND', `the directory above ${path} does not exist`, { cause, hint: 'mkdir -p it' });
    }
    throw new ClipError('SYSTEM', `cannot make ${path}: ${code}`, { cause });
  }
}

function makeIn(parent: number, path: string): void {
  try {
    mkdirSync(descriptorPath(parent, basename(path)), { mode: 0o700 });
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code !== 'EEXIST') throw new ClipError('SYSTEM', `cannot make ${path}: ${code}`, { cause });
  }
}
