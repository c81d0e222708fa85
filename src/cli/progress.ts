import type { MultiBar, SingleBar } from 'cli-progress';
import type { ProgressStyle } from './common-flags.js';
import { progressStyle } from './output.js';
import { formatBytes, formatSeconds } from './units.js';

/** How far running tasks are, on stderr. */
export interface Progress {
  /** `rate` in bytes per second. `stage`: what lines that are of all tasks together begin with. */
  update(key: string, label: string, done: number, total: number, rate: number, stage?: string): void;
  /** Leaves the lines as they are and releases the terminal. */
  stop(): void;
}

/** The first bytes are there at once: a rate of them says nothing. */
const SETTLED_MS = 100;

/** Bytes per second; 0 as long as it is not known. */
function rateSince(started: number, done: number): number {
  const passed = performance.now() - started;
  return passed < SETTLED_MS ? 0 : (1000 * done) / passed;
}

/** Shows bytes that come or go from now on. */
export function showBytes(
  progress: Pick<Progress, 'update'>,
  key: string,
  label: string,
): (done: number, total: number) => void {
  const started = performance.now();
  return (done, total) => progress.update(key, label, done, total, rateSince(started, done));
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
    if (this.#bars.size === 0) return; // the terminal is as it was
    this.#multi.stop();
  }
}

/** Lines for a log, or for a terminal that cannot move its cursor: one every 10 s, of all tasks together. */
class Lines implements Progress {
  readonly #tasks = new Map<string, { done: number; total: number; rate: number }>();
  readonly #print: (line: string) => void;
  readonly #timer: NodeJS.Timeout;
  #first: boolean;
  #stage = '';

  /** @param first a line at once, too, and one at the end */
  constructor(print: (line: string) => void, first: boolean, intervalMs: number) {
    this.#print = print;
    this.#first = first;
    // By a timer, not by updates: a download that stalls is told, too.
    this.#timer = setInterval(() => this.#tell(), intervalMs).unref();
  }

  update(key: string, _label: string, done: number, total: number, rate: number, stage?: string): void {
    this.#tasks.set(key, { done, total, rate });
    this.#stage = stage === undefined ? '' : `${stage}: `;
    if (!this.#first) return;
    this.#first = false;
    this.#tell();
  }

  #tell(): void {
    if (this.#tasks.size === 0) return;
    const tasks = [...this.#tasks.values()];
    const sum = (of: (task: (typeof tasks)[number]) => number): number => tasks.reduce((all, one) => all + of(one), 0);
    const [done, total] = [sum((one) => one.done), sum((one) => one.total)];
    const rate = sum((one) => (one.done < one.total ? one.rate : 0));
    const left = rate > 0 ? `, ${formatBytes(Math.round(rate))}/s, ETA ${formatSeconds((total - done) / rate)}` : '';
    this.#print(`clipctl: ${this.#stage}${formatBytes(done)} of ${formatBytes(total)}${left}\n`);
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}

const LINE_EVERY_MS = 10_000;

/** @param style that of `--progress`; "auto": bars on a terminal that can show them, else lines */
export async function createProgress(
  style: ProgressStyle = progressStyle(),
  stream: NodeJS.WriteStream = process.stderr,
  lineEveryMs = LINE_EVERY_MS,
): Promise<Progress> {
  if (style === 'none') return SILENT;
  if (style === 'plain' || !stream.isTTY || process.env.TERM === 'dumb') {
    return new Lines((line) => stream.write(line), style === 'plain', lineEveryMs);
  }
  const { default: cliProgress } = await import('cli-progress');
  const format = '{label} [{bar}] {percentage}% | {amount} | {speed} | {left}';
  const options = { format, stream, fps: 10, barsize: 24, hideCursor: true, emptyOnZero: true, autopadding: true };
  return new Bars(new cliProgress.MultiBar(options, cliProgress.Presets.legacy));
}
