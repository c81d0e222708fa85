import { closeSync, openSync, writeSync } from 'node:fs';
import { type ProgramOptions, type Ran, runProgram } from '../test/support/clipctl.js';

/** One measured figure. */
export interface Row {
  readonly metric: string;
  readonly value: number;
  /** "s", "ms", "MB/s", "MB", "×", "%", "" */
  readonly unit: string;
  /** The least and the greatest of the runs. */
  readonly spread?: readonly [number, number];
  /** The figure divided by its control of the same run ("1.9 × zlib"). If there is one, the target is judged by it. */
  readonly ratio?: { readonly value: number; readonly to: string };
  /** The target, for people: "≥ 3 × gzip -dc". */
  readonly target?: string;
  /** Whether the target is met; absent for figures that are only shown. */
  readonly ok?: boolean;
  /** One remark: the origin of the number, or why it misses its target. */
  readonly note?: string;
}

export interface SuiteResult {
  /** The subject: "py:latest, 304 MB, 39,541 entries". */
  readonly title: string;
  readonly rows: readonly Row[];
  /** Its place in docs/benchmarks.md, if that is not named like the suite. */
  readonly block?: string;
}

export interface BenchImage {
  /** "127.0.0.1:PORT/py:latest", plain HTTP. */
  readonly reference: string;
  /** An image layout of the same image, with the tag that the reference has. */
  readonly layout: string;
  /** The compressed layers as files, base first. */
  readonly layers: readonly string[];
  /** The uncompressed layers as files, base first; none for `big`. */
  readonly tars: readonly string[];
  readonly compressedBytes: number;
}

export interface BenchContext {
  /** Python with numpy, scipy and pandas in one gzip layer. Made on first use, which takes minutes the first time. */
  python(): Promise<BenchImage>;
  /** A large node_modules tree in several layers. */
  node(): Promise<BenchImage>;
  /** One gzip layer with one file of 500 MB. */
  big(): Promise<BenchImage>;
  /** `--only NAMES`: the parts of a suite that are to run; null: all. */
  readonly only: readonly string[] | null;
  /** `--link MBITS,MS`: the link of `starts`. */
  readonly link: { readonly bytesPerSecond: number; readonly roundTripMs: number };
  /** That is the link without `--link`. */
  readonly usualLink: boolean;
  /** An empty directory, removed when the suite is over. */
  scratch(): Promise<string>;
  /** Undone in reverse order when the suite is over, however it ends. */
  defer(undo: () => Promise<void> | void): void;
  log(line: string): void;
}

/** The function that each suite file exports as `run`. */
export type Suite = (ctx: BenchContext) => Promise<SuiteResult>;

/** The parts of a suite that `--only` names, or all. @throws when it names another */
export function chosen<T extends string>({ only }: BenchContext, parts: readonly T[]): readonly T[] {
  const unknown = only?.filter((name) => !parts.includes(name as T)) ?? [];
  if (unknown.length > 0) throw new Error(`--only ${unknown.join(',')}: the parts are ${parts.join(', ')}`);
  return only === null ? parts : parts.filter((part) => only.includes(part));
}

/** A row judged by `value/control ≥ least` (or ≤ with `atMost`). */
export function rated(
  metric: string,
  value: number,
  unit: string,
  ratio: { value: number; to: string },
  bound: { atLeast: number } | { atMost: number },
  note?: string,
): Row {
  const least = 'atLeast' in bound;
  const limit = least ? bound.atLeast : bound.atMost;
  return {
    metric,
    value,
    unit,
    ratio,
    target: `${least ? '≥' : '≤'} ${limit} × ${ratio.to}`,
    ok: least ? ratio.value >= limit : ratio.value <= limit,
    ...(note === undefined ? {} : { note }),
  };
}

/** A row judged by the value itself. */
export function bounded(
  metric: string,
  value: number,
  unit: string,
  bound: { atLeast: number } | { atMost: number },
  note?: string,
): Row {
  const least = 'atLeast' in bound;
  const limit = least ? bound.atLeast : bound.atMost;
  return {
    metric,
    value,
    unit,
    target: `${least ? '≥' : '≤'} ${limit} ${unit}`.trimEnd(),
    ok: least ? value >= limit : value <= limit,
    ...(note === undefined ? {} : { note }),
  };
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const mid = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[mid]! : (sorted[mid - 1]! + sorted[mid]!) / 2;
}

/** Runs a program and times it. Rejects unless its exit code is 0. */
export async function run(command: string, args: readonly string[], options: ProgramOptions = {}): Promise<Ran> {
  const result = await runProgram(command, args, options);
  if (result.code === 0) return result;
  const complaint = result.stderr.trim().split('\n').slice(-3).join(' | ');
  throw new Error(`${command} ${args.join(' ')}: exit ${result.code ?? result.signal}: ${complaint}`);
}

/** Empties page, dentry and inode caches: a cold read afterwards is the file system's own work. Root only. */
export function dropCaches(): void {
  const fd = openSync('/proc/sys/vm/drop_caches', 'w');
  try {
    writeSync(fd, '3');
  } finally {
    closeSync(fd);
  }
}

/** Runs `sample` `times` times and returns the seconds of each, in order. */
export async function timed(times: number, sample: () => Promise<void> | void): Promise<number[]> {
  const taken: number[] = [];
  for (let i = 0; i < times; i++) {
    const started = process.hrtime.bigint();
    await sample();
    taken.push(Number(process.hrtime.bigint() - started) / 1e9);
  }
  return taken;
}
