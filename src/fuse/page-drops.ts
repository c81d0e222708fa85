import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Nid } from '../bytes/index.js';

/** A stretch of a file whose pages the kernel is to drop. */
export interface FileRange {
  readonly nid: Nid;
  readonly offset: number;
  readonly length: number;
}

/** The same, of an image that the kernel itself shows. */
export interface PathRange {
  /** From the image's root, with a slash; bytes as Latin-1. */
  readonly path: string;
  readonly offset: number;
  readonly length: number;
}

export interface PageDrops {
  /** Of the connection. */
  readonly ranges: readonly FileRange[];
  /** Of the image at `root`. */
  readonly files: readonly PathRange[];
}

const PROGRAM = fileURLToPath(new URL('./page-drops-main.js', import.meta.url));
/** A page that is being read is locked, and dropping it waits for that read. */
const WAIT_MS = 5_000;

/**
 * Makes the kernel forget pages that it has of a mount, so that they are read again. In a process of its own, because the kernel
 * waits for pages that are being read, and cannot be interrupted: a thread of the server that waits would keep the server from
 * being replaced, and the pages from coming.
 * @param root of an image that the kernel itself shows, open
 * @returns false when it is not done yet; it goes on
 */
export function dropPages(fd: number, drops: PageDrops, root: number | 'ignore' = 'ignore'): Promise<boolean> {
  if (drops.ranges.length === 0) return Promise.resolve(true);
  const child = spawn(process.execPath, [PROGRAM], { stdio: ['pipe', 'ignore', 'ignore', fd, root], detached: true });
  child.unref();
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve(false), WAIT_MS).unref();
    const end = (done: boolean): void => {
      clearTimeout(timer);
      resolve(done);
    };
    child.once('error', () => end(false));
    child.once('exit', (code) => end(code === 0));
    child.stdin!.on('error', () => {}); // it has ended: exit says how
    child.stdin!.end(JSON.stringify(drops));
  });
}
