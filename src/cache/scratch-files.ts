import { closeSync, constants, openSync, statfsSync } from 'node:fs';

const O_TMPFILE = 0o20000000 | constants.O_DIRECTORY;

export interface ScratchFile {
  readonly fd: number;
  /** Once, when nothing uses it any more. */
  close(): void;
}

/** Files without a name, for content that is not known to be right yet. A file goes with its descriptor. */
export class ScratchFiles {
  /** Of all open ones. */
  bytes = 0;

  /**
   * @param bytes the content's length; it is copied into a layer's file later, so the disk must have room for twice as much
   * @returns null when the disk has not, or has no such files
   */
  open(directory: string, bytes: number): ScratchFile | null {
    let fd: number;
    try {
      const { bavail, bsize } = statfsSync(directory);
      if (bavail * bsize < 2 * bytes) return null;
      fd = openSync(directory, constants.O_RDWR | O_TMPFILE, 0o600);
    } catch {
      return null;
    }
    this.bytes += bytes;
    const close = (): void => {
      this.bytes -= bytes;
      closeSync(fd);
    };
    return { fd, close };
  }
}
