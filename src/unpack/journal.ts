import { closeSync, constants, existsSync, fstatSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { resolve } from 'node:path';
import type { LayerIndex } from '../bytes/index.js';
import { ClipError } from '../bytes/index.js';
import type { UnpackDirectory } from './directory.js';

/** Spans of a layer, [first, end). */
export interface Stretch {
  readonly layer: LayerIndex;
  readonly first: number;
  readonly end: number;
}

const SUFFIX = '.clip-unpack';

/** Whether a run that was interrupted has left notes, by which the next one goes on. */
export function isUnfinished(directory: string): boolean {
  return existsSync(`${resolve(directory)}${SUFFIX}`);
}

/**
 * What an earlier run has done. Beside the directory, because all that is in it belongs to the image. The directory above may be
 * another user's, so a journal is believed only if it is this user's, and of this very directory.
 */
export class Journal {
  readonly #path: string;
  /** For people. */
  readonly #shown: string;
  readonly #header: string;
  #fd = -1;

  constructor(directory: UnpackDirectory, identity: string) {
    this.#path = directory.beside(SUFFIX);
    this.#shown = `${directory.path}${SUFFIX}`;
    // After a crash of the machine what was written may be lost, whatever a file says.
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
    const { dev, ino } = fstatSync(directory.fd, { bigint: true });
    this.#header = JSON.stringify({ format: 'clip unpack 1', identity, boot, directory: `${dev}:${ino}` });
  }

  /**
   * "layer first end" of what is done; null when there is no earlier run of this archive. The journal stays open to be continued.
   * @throws ClipError PERMISSION when it is not this user's
   */
  read(): Set<string> | null {
    let fd: number;
    try {
      // O_NONBLOCK: a FIFO must not keep us waiting.
      fd = openSync(this.#path, constants.O_RDWR | constants.O_APPEND | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'ENOENT') return null;
      if (code === 'ELOOP' || code === 'EISDIR' || code === 'ENXIO' || code === 'EACCES') throw this.#notOurs(error);
      throw error;
    }
    try {
      const stat = fstatSync(fd);
      if (!stat.isFile() || stat.uid !== process.geteuid?.() || stat.nlink > 1) throw this.#notOurs();
      const [header, ...lines] = readFileSync(fd, 'utf8').split('\n');
      if (header !== this.#header) return null;
      lines.pop(); // cut, or empty
      this.#fd = fd;
      return new Set(lines);
    } finally {
      if (this.#fd !== fd) closeSync(fd);
    }
  }

  #notOurs(cause?: unknown): ClipError {
    return new ClipError('PERMISSION', `${this.#shown} is not a plain file of this user`, {
      cause,
      hint: 'look whose it is, and remove it; or unpack in a directory of your own',
    });
  }

  begin(): void {
    this.remove(); // of another archive, or of another boot
    const how = constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_EXCL;
    this.#fd = openSync(this.#path, how, 0o600);
    writeSync(this.#fd, `${this.#header}\n`);
  }

  add({ layer, first, end }: Stretch): void {
    writeSync(this.#fd, `${layer} ${first} ${end}\n`);
  }

  remove(): void {
    rmSync(this.#path, { force: true });
  }

  close(): void {
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }
}
