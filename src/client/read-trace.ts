import type { FilePaths } from '../archives/index.js';
import type { TracedRead } from '../wire/index.js';
import type { ClipdClient } from './clipd-client.js';
import type { ReadTrace } from './follow.js';

export type { ReadTrace } from './follow.js';

/** A read whose bytes were not in the span cache, with the path of its file. */
export interface ReadEvent extends TracedRead {
  /** From the root of the image; null: the archive cannot be read any more, or is another one now. */
  readonly path: string | null;
}

/** Of reads that came faster than they were taken; the events of that many are missing. */
export interface DroppedReads {
  readonly dropped: number;
}

/** How long a server that is replaced is looked for again. */
const AGAIN_MS = 100;
const AGAIN_TIMES = 50;

/** Tells of the reads of one mount from now on, over replacements of its server, until it is unmounted or stopped. */
export async function traceReads(
  client: ClipdClient,
  mount: { readonly mountPoint: string; readonly archivePath: string; readonly identity: string },
  onRead: (read: ReadEvent | DroppedReads) => void,
): Promise<ReadTrace> {
  const { FilePaths: Paths } = await import('../archives/index.js');
  let paths: FilePaths | null = null;
  try {
    paths = Paths.open(mount.archivePath);
    if (paths.identity !== mount.identity) paths = null;
  } catch {
    // Its file was removed or damaged after it was mounted.
  }
  const take = (line: unknown): void => {
    const read = line as TracedRead | DroppedReads;
    if ('dropped' in read) onRead(read);
    else onRead({ path: paths?.path(read.nid) ?? null, ...read });
  };
  let stopped = false;
  let current = await client.followTrace(mount.mountPoint, take);
  const ended = (async () => {
    for (;;) {
      await current.ended;
      if (stopped) return;
      let again: typeof current | null = null;
      for (let i = 0; i < AGAIN_TIMES && again === null && !stopped; i++) {
        try {
          again = await client.followTrace(mount.mountPoint, take);
        } catch (error) {
          const { code } = error as { code?: string };
          if (code === 'NOT_FOUND') return; // unmounted, or no clipd any more
          await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
        }
      }
      if (again === null) return;
      current = again;
    }
  })();
  return {
    ended,
    stop() {
      stopped = true;
      current.stop();
    },
  };
}
