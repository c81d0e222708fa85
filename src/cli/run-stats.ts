import { counted } from '../bytes/index.js';
import type { MountedContainer, RunResult } from '../container/index.js';
import type { Stats } from '../wire/index.js';
import { formatBytes } from './units.js';

/** The figures of `run --stats`. */
export interface RunStats {
  /** Passes output on and notes when the first came. */
  readonly onOutput: (chunk: Buffer, stream: 'stdout' | 'stderr') => void;
  /** Asks clipd for the fetched bytes, while the image is still mounted. */
  readonly onEnded: (container: MountedContainer) => Promise<void>;
  /** @param asking milliseconds in which the archive was found or made, before the container was begun */
  print(result: RunResult, asking: number): void;
}

const milliseconds = (value: number): string => (Number.isNaN(value) ? '–' : `${Math.round(value)} ms`);

export function runStats(requested: number): RunStats {
  let firstOutput = Number.NaN;
  let stats: Stats | null = null;
  return {
    onOutput(chunk, stream) {
      if (Number.isNaN(firstOutput)) firstOutput = performance.now() - requested;
      process[stream].write(chunk);
    },
    async onEnded({ paths, mounted }) {
      if (mounted === null) return;
      const { ClipdClient } = await import('../client/index.js');
      stats = await new ClipdClient(paths.bundle.slice(0, paths.bundle.lastIndexOf('/'))).stats();
    },
    print({ firstExec }, asking) {
      const { counters = {} } = stats ?? {};
      const count = (name: string): number => counters[name] ?? 0;
      const fetched = ['demandBytes', 'readaheadBytes', 'prefetchBytes', 'speculatedBytes', 'fillBytes'].reduce(
        (sum, n) => sum + count(n),
        0,
      );
      const spans = count('spanHits') + count('spanMisses');
      const rate = spans === 0 ? '–' : `${((100 * count('spanHits')) / spans).toFixed(1)} %`;
      process.stderr.write(
        `clipctl: archive found after ${milliseconds(asking)}; then first exec after ${milliseconds(firstExec)}, first output after ${milliseconds(firstOutput - asking)}; ` +
          `since its start clipd has fetched ${formatBytes(fetched)} in ${counted(count('requests'), 'request')}, ${rate} of spans were there when they were read\n`,
      );
    },
  };
}
