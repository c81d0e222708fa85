import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  type Stats,
  writeFileSync,
} from 'node:fs';
import { ClipError } from '../bytes/index.js';
import { descriptorPath, openComponent, openPlace } from './open-place.js';

const GROUP_OR_OTHERS_WRITE = 0o022;

export interface OwnDirectoryOptions {
  /** Make the directory, and what is missing above it, for this user alone. Default false. */
  readonly make?: boolean;
  /** Take a directory of root's, too: a client that asks root's clipd. Default false. */
  readonly orRoots?: boolean;
}

/**
 * A directory in which only this user can have put anything: it belongs to the user, no other user may write to it, and no link
 * that another user controls led to it. It is reached by its descriptor, so that whatever happens to its path later, files are made, read and
 * removed in the directory that was checked.
 */
export class OwnDirectory {
  private constructor(
    /** For people: absolute, without symbolic links. */
    readonly path: string,
    readonly fd: number,
    private readonly users: ReadonlySet<number>,
  ) {}

  /**
   * @param path absolute
   * @throws ClipError PERMISSION when it is not this user's alone, NOT_FOUND; Node's error otherwise (ENOSPC, EROFS …)
   */
  static open(path: string, options: OwnDirectoryOptions = {}): OwnDirectory {
    const own = process.geteuid?.() ?? 0;
    const place = reach(path, options.make ?? false);
    const directory = new OwnDirectory(place.path, place.fd, new Set(options.orRoots ? [own, 0] : [own]));
    try {
      directory.#check(fstatSync(place.fd), place.path);
    } catch (error) {
      directory.close();
      throw error;
    }
    return directory;
  }

  /** @throws ClipError PERMISSION */
  #check(stat: Stats, path: string): void {
    if (!this.users.has(stat.uid)) {
      throw new ClipError('PERMISSION', `${path} belongs to user ${stat.uid}, not to user ${process.geteuid?.()}`, {
        hint: 'name a directory of your own',
      });
    }
    if ((stat.mode & GROUP_OR_OTHERS_WRITE) === 0) return;
    const mode = (stat.mode & 0o7777).toString(8).padStart(4, '0');
    throw new ClipError('PERMISSION', `other users may write to ${path} (mode ${mode})`, {
      hint: `chmod go-w ${path}, after a look at what lies in it, or name another`,
    });
  }

  /** A path by which Node's functions reach `name` in this directory, whatever its own path leads to by now. */
  at(name: string): string {
    return descriptorPath(this.fd, name);
  }

  /**
   * Makes a directory in it, of one name or several below each other, for this user alone; not an error when it is there. mkdir's `recursive` is no
   * choice: in a directory that has been removed it never ends, since /proc/self/fd/N exists and yet nothing can be made in it.
   * @throws Node's error: ENOENT when this directory has been removed
   */
  make(name: string): void {
    const names = name.split('/');
    for (let count = 1; count <= names.length; count++) {
      try {
        mkdirSync(this.at(names.slice(0, count).join('/')), { mode: 0o700 });
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      }
    }
  }

  /**
   * A directory in it, made if need be.
   * @throws ClipError PERMISSION when it is a link, or not this user's alone; Node's error
   */
  directory(name: string): OwnDirectory {
    const path = `${this.path}/${name}`;
    let fd: number;
    try {
      fd = openComponent(this.fd, name, true);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'ENOTDIR' || code === 'ELOOP') throw this.#notOurs(name, 'directory');
      throw error;
    }
    const directory = new OwnDirectory(path, fd, this.users);
    try {
      directory.#check(fstatSync(fd), path);
      return directory;
    } catch (error) {
      directory.close();
      throw error;
    }
  }

  /**
   * Opens a file in it. O_NOFOLLOW is always set, and O_TRUNC takes effect after the checks.
   * @throws ClipError PERMISSION for a link or another user's file; Node's error (ENOENT, ENOSPC …)
   */
  open(name: string, flags: number, mode = 0o600): number {
    let fd: number;
    try {
      // O_NONBLOCK: a FIFO must not keep us waiting. It means nothing for a file.
      fd = openSync(this.at(name), (flags & ~constants.O_TRUNC) | constants.O_NOFOLLOW | constants.O_NONBLOCK, mode);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ELOOP') throw this.#notOurs(name);
      throw error;
    }
    try {
      const stat = fstatSync(fd);
      // A second name is a hard link, made while the directory belonged to another user.
      if (!stat.isFile() || !this.users.has(stat.uid) || stat.nlink > 1) throw this.#notOurs(name);
      if ((flags & constants.O_TRUNC) !== 0) ftruncateSync(fd, 0);
      return fd;
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  #notOurs(name: string, what = 'plain file'): ClipError {
    return new ClipError('PERMISSION', `${this.path}/${name} is not a ${what} of this user`, {
      hint: `remove it: another user may have made it while ${this.path} was open to others`,
    });
  }

  /** Null when there is no such file. @throws as `open` */
  read(name: string): string | null {
    let fd: number;
    try {
      fd = this.open(name, constants.O_RDONLY);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw error;
    }
    try {
      return readFileSync(fd, 'utf8');
    } finally {
      closeSync(fd);
    }
  }

  /**
   * Writes a file by rename, so that a crash or a loss of power leaves the old content or the new.
   * @param options `durable` false, for what can be made again and is checked when it is read: a loss of power may leave an empty file
   * @throws Node's error
   */
  replace(name: string, content: string, { durable = true }: { readonly durable?: boolean } = {}): void {
    const temporary = this.at(`${name}.new`);
    rmSync(temporary, { force: true }); // of a process that was killed
    const fd = openSync(temporary, 'wx', 0o600);
    try {
      writeFileSync(fd, content);
      if (durable) fsyncSync(fd); // a name without its content is what a loss of power may leave otherwise
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, this.at(name));
  }

  /**
   * The path by which to connect to a socket in it, which no other user can have bound.
   * @throws ClipError PERMISSION; Node's error (ENOENT, EACCES)
   */
  socket(name: string): string {
    const stat = lstatSync(this.at(name));
    if (!stat.isSocket() || !this.users.has(stat.uid)) {
      throw new ClipError('PERMISSION', `${this.path}/${name} is not a socket of this user or root`, {
        hint: `look who has made it: ls -l ${this.path}`,
      });
    }
    return this.at(name);
  }

  close(): void {
    closeSync(this.fd);
  }
}

function reach(path: string, make: boolean): { readonly fd: number; readonly path: string } {
  try {
    return openPlace(path, { make });
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (cause instanceof ClipError) throw cause;
    const verb = make ? 'make' : 'use';
    if (code === 'EACCES' || code === 'EPERM') {
      throw new ClipError('PERMISSION', `cannot ${verb} ${path}: ${code}`, {
        cause,
        hint: 'give places that you may write to: --root DIR --cache-dir DIR',
      });
    }
    if (code === 'ENOENT') throw new ClipError('NOT_FOUND', `directory ${path} does not exist`, { cause });
    if (code === 'ENOTDIR') {
      throw new ClipError('NOT_FOUND', `${path} is not a directory`, { cause, hint: 'name a directory of your own' });
    }
    throw cause;
  }
}
