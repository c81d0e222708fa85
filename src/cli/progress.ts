import type { MultiBar, SingleBar } from 'cli-progress';
import { formatBytes, formatSeconds } from './units.js';

/** One line per running task, on stderr; nothing if stderr is no terminal. */
export interface Progress {
  /** `rate` in bytes per second. */
  update(key: string, label: string, done: number, total: number, rate: number): void;
  /** Leaves the lines as they are and releases the terminal. */
  stop(): void;
}

const SILENT: Progress = { update() {}, stop() {} };

/** With more lines a terminal may scroll, and moving the cursor goes wrong: finished lines are removed. */
const MAX_LINES = 8;

class Bars implements Progress {
  readonly #multi: MultiBar;
  readonly #bars = new Map<string, SingleBar>();

  constructor(multi: MultiBar) {
    this.#multi = multi;
  }

  update(key: string, label: string, done: number, total: number, rate: number): void {
    const payload = {
      label,
      amount: `${formatBytes(done)} of ${formatBytes(total)}`,
      speed: `${formatBytes(Math.round(rate))}/s`,
      left:
        done >= total ? 'done' : `ETA ${formatSeconds(rate > 0 ? (total - done) / rate : Number.POSITIVE_INFINITY)}`,
    };
    const bar = this.#bars.get(key);
    if (bar !== undefined) {
      bar.update(done, payload);
      return;
    }
    this.#makeRoom();
    this.#bars.set(key, this.#multi.create(total, done, payload));
  }

  #makeRoom(): void {
    if (this.#bars.size < MAX_LINES) return;
    for (const [key, bar] of this.#bars) {
      if (bar.getProgress() < 1) continue;
      this.#multi.remove(bar);
      this.#bars.delete(key);
      return;
    }
  }

  stop(): void {
    this.#multi.stop();
  }
}

export async function createProgress(stream: NodeJS.WriteStream = process.stderr): Promise<Progress> {
  if (!stream.isTTY) return SILENT;
  const { default: cliProgress } = await import('cli-progress');
  const format = '{label} [{bar}] {percentage}% | {amount} | {speed} | {left}';
  const options = { format, stream, fps: 10, barsize: 24, hideCursor: true, emptyOnZero: true, autopadding: true };
  return new Bars(new cliProgress.MultiBar(options, cliProgress.Presets.legacy));
}
