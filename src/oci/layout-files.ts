import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { ClipError } from '../bytes/index.js';
import { type FileUser, flags, openBeneath, withFilePermissionsOf } from '../linux/index.js';

export const COPY_AGAIN = 'copy the image into it again (skopeo copy)';

/** A file of a layout, open: bytes of a file on disk, of a member of a tar, or in memory. */
export interface OpenFile {
  readonly size: number;
  /** Reads into `target` at `at`, from `position` on. @returns the bytes read; 0 at the end */
  read(target: Uint8Array, at: number, length: number, position: number): Promise<number>;
  close(): Promise<void>;
}

/** The files of an image layout, wherever they are. */
export interface LayoutFiles {
  /**
   * @param name relative, such as "index.json" or "blobs/sha256/HEX"
   * @returns null when there is no such file. @throws ClipError naming it when it cannot be read
   */
  open(name: string): Promise<OpenFile | null>;
  close(): Promise<void>;
}

class DiskFile implements OpenFile {
  readonly #handle: FileHandle;
  readonly size: number;

  constructor(handle: FileHandle, size: number) {
    this.#handle = handle;
    this.size = size;
  }

  async read(target: Uint8Array, at: number, length: number, position: number): Promise<number> {
    return (await this.#handle.read(target, at, length, position)).bytesRead;
  }

  close(): Promise<void> {
    return this.#handle.close();
  }
}

/** null: nothing is there. */
function explain(path: string, cause: unknown): null {
  if (cause instanceof ClipError) throw cause;
  const code = (cause as NodeJS.ErrnoException).code ?? '';
  if (code === 'ENOENT' || code === 'ENOTDIR') return null;
  if (code === 'ELOOP') {
    throw new ClipError('BAD_FORMAT', `${path}: a symbolic link in an image layout is not followed`, {
      cause,
      hint: COPY_AGAIN,
    });
  }
  throw new ClipError('PERMISSION', `cannot open ${path}: ${code}`, { cause, hint: 'name a layout that you may read' });
}

function asUser<T>(user: FileUser | undefined, run: () => T): T {
  return user === undefined ? run() : withFilePermissionsOf(user, run);
}

/**
 * Opens what an O_PATH descriptor stands for, if it is a regular file. (With O_PATH nothing happens to a device or a FIFO.)
 * The user's permissions are taken for this thread alone, so the open that they decide about is synchronous.
 */
async function openFound(found: number, path: string, user: FileUser | undefined): Promise<OpenFile> {
  const stat = fstatSync(found);
  if (!stat.isFile()) throw new ClipError('BAD_FORMAT', `${path} is not a regular file`, { hint: COPY_AGAIN });
  const readable = asUser(user, () => openSync(`/proc/self/fd/${found}`, constants.O_RDONLY));
  try {
    return new DiskFile(await open(`/proc/self/fd/${readable}`, constants.O_RDONLY), stat.size);
  } finally {
    closeSync(readable);
  }
}

/** @param user whose file permissions decide. @returns null when it is not there */
export async function openFile(path: string, user: FileUser | undefined): Promise<OpenFile | null> {
  let found: number | null = null;
  try {
    found = asUser(user, () => openSync(path, flags.O_PATH));
    return await openFound(found, path, user);
  } catch (cause) {
    return explain(path, cause);
  } finally {
    if (found !== null) closeSync(found);
  }
}

/**
 * A layout in a directory. Regular files below it are opened, with the user's permissions and through no symbolic link: the
 * layout may be another user's, and a link in it would lead to files that only this process can read (docs/security.md, "Layouts").
 */
export class LayoutDirectory implements LayoutFiles {
  readonly #path: string;
  readonly #user: FileUser | undefined;

  constructor(path: string, user: FileUser | undefined) {
    this.#path = path;
    this.#user = user;
  }

  async open(name: string): Promise<OpenFile | null> {
    const path = join(this.#path, name);
    const fds: number[] = [];
    try {
      const user = this.#user;
      fds.push(asUser(user, () => openSync(this.#path, flags.O_PATH | constants.O_DIRECTORY)));
      fds.push(openBeneath(fds[0]!, name, flags.O_PATH, { user }));
      return await openFound(fds[1]!, path, user);
    } catch (cause) {
      return explain(path, cause);
    } finally {
      for (const fd of fds) closeSync(fd);
    }
  }

  async close(): Promise<void> {}
}

/** Bytes that are not in any file. */
export class MemoryFile implements OpenFile {
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get size(): number {
    return this.#bytes.length;
  }

  async read(target: Uint8Array, at: number, length: number, position: number): Promise<number> {
    const piece = this.#bytes.subarray(position, position + length);
    target.set(piece, at);
    return piece.length;
  }

  async close(): Promise<void> {}
}
