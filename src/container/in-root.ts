import { closeSync, constants, fstatSync, mkdirSync, openSync, readSync, type Stats } from 'node:fs';
import { posix } from 'node:path';
import { ClipError } from '../bytes/index.js';
import { errnoName, flags, openInRoot, SystemCallError } from '../linux/index.js';

/** An image's root directory as this process may use it: whatever the image's symlinks say, no path leads out of it. */
export class InRoot {
  readonly #fd: number;

  constructor(readonly path: string) {
    this.#fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  }

  /** @returns a descriptor, or −errno */
  #open(path: string, how: number): number {
    return openInRoot(this.#fd, path, how);
  }

  #absent(result: number): boolean {
    return ['ENOENT', 'ENOTDIR', 'ELOOP', 'EACCES'].includes(errnoName(-result));
  }

  #fail(path: string, result: number): never {
    const error = new SystemCallError(`open ${path} in ${this.path}`, -result);
    if (errnoName(-result) !== 'ENOSYS') throw error;
    throw new ClipError('UNSUPPORTED', 'this kernel has no openat2(2)', {
      cause: error,
      hint: 'Linux 5.6 or newer has',
    });
  }

  /** What is there, links followed; null when there is nothing. */
  stat(path: string): Stats | null {
    const fd = this.#open(path, flags.O_PATH);
    if (fd < 0) return this.#absent(fd) ? null : this.#fail(path, fd);
    try {
      return fstatSync(fd);
    } finally {
      closeSync(fd);
    }
  }

  /** The first bytes of a regular file, at most `limit`; null when there is none. */
  read(path: string, limit: number): Buffer | null {
    // O_NONBLOCK: a pipe in the image must not keep us waiting for its other end.
    const fd = this.#open(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
    if (fd < 0) return this.#absent(fd) || errnoName(-fd) === 'ENXIO' ? null : this.#fail(path, fd);
    try {
      const stat = fstatSync(fd);
      if (!stat.isFile()) return null;
      const bytes = Buffer.alloc(Math.min(limit, stat.size));
      let filled = 0;
      try {
        for (let n = -1; n !== 0 && filled < bytes.length; filled += n) {
          n = readSync(fd, bytes, filled, bytes.length - filled, filled);
        }
      } catch (cause) {
        const { code = String(cause) } = cause as NodeJS.ErrnoException;
        throw new ClipError('SYSTEM', `${path} of the image cannot be read: ${code}`, {
          cause,
          hint: 'clipd.log, in the root that clipctl health shows, says why its bytes do not come',
        });
      }
      return bytes.subarray(0, filled);
    } finally {
      closeSync(fd);
    }
  }

  /** Makes a directory and those above it, where they are missing. */
  makeDirectory(path: string, mode = 0o755): void {
    const parts = posix
      .normalize(`/${path}`)
      .split('/')
      .filter((part) => part !== '');
    for (let i = 1; i <= parts.length; i++) {
      const fd = this.#open(parts.slice(0, i).join('/'), flags.O_PATH | constants.O_DIRECTORY);
      if (fd >= 0) {
        closeSync(fd);
        continue;
      }
      if (errnoName(-fd) !== 'ENOENT') this.#fail(path, fd);
      this.#withParent(parts.slice(0, i - 1).join('/') || '.', path, (parent) =>
        mkdirSync(`${parent}/${parts[i - 1]}`, mode),
      );
    }
  }

  /** Makes an empty file, and the directories above it, where they are missing. */
  makeFile(path: string, mode = 0o644): void {
    const fd = this.#open(path, flags.O_PATH);
    if (fd >= 0) {
      closeSync(fd);
      return;
    }
    if (errnoName(-fd) !== 'ENOENT') this.#fail(path, fd);
    const { dir, base } = posix.parse(posix.normalize(`/${path}`));
    this.makeDirectory(dir);
    const how = constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY | constants.O_NOFOLLOW;
    this.#withParent(dir, path, (parent) => closeSync(openSync(`${parent}/${base}`, how, mode)));
  }

  #withParent(parent: string, path: string, work: (parent: string) => void): void {
    const fd = this.#open(parent, flags.O_PATH | constants.O_DIRECTORY);
    if (fd < 0) this.#fail(path, fd);
    try {
      work(`/proc/self/fd/${fd}`);
    } finally {
      closeSync(fd);
    }
  }

  close(): void {
    closeSync(this.#fd);
  }
}
