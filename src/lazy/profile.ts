import { join } from 'node:path';
import type { SpanTable } from '../archive/index.js';
import type { LayerIndex } from '../bytes/index.js';
import { ClipError } from '../bytes/index.js';
import { spanAt, TOUCH_PAGE, type TouchRecord } from '../spans/index.js';

/** A stretch of a layer's uncompressed bytes that a run has read. */
export interface TouchedRange {
  /** Index into ImageMeta.layers. */
  readonly layer: number;
  readonly start: number;
  readonly end: number;
  /** Of several starts: how many have read it (older ones count less), and when, as the mean share of a start's bytes read before it. */
  readonly starts?: number;
  readonly at?: number;
}

/** What a run has read, in the order in which it did, or several starts (profile-merge.ts): the file that `clipctl profile` writes. */
export interface RecordedProfile {
  readonly format: 'clip profile 1';
  readonly manifestDigest: string;
  /** For the order of the layers in `ranges`. */
  readonly layers: readonly string[];
  readonly ranges: readonly TouchedRange[];
  /** Absent: one. */
  readonly starts?: number;
}

export const PROFILE_FORMAT = 'clip profile 1';

/** Where a cache directory keeps what was recorded, beside its spans. */
export function profilesDirectory(cacheDir: string): string {
  return join(cacheDir, 'profiles');
}

/** Gaps up to this are part of a range: a request or a checkpoint for less is not worth it. */
const JOIN_GAP = 32 * 1024;
/** A range's place in the order is that of its first touch; one range must not hide that its parts came far apart in time. */
const MAX_RANGE = 4 * 1024 * 1024;

/** Turns records into ranges, ordered by first touch. */
export function touchedRanges(
  records: readonly TouchRecord[],
  sizes: readonly number[],
  gap = JOIN_GAP,
): TouchedRange[] {
  const found: (TouchedRange & { order: number })[] = [];
  for (const [layer, { pages }] of records.entries()) {
    let open: { start: number; end: number; order: number } | null = null;
    const close = (): void => {
      if (open !== null)
        found.push({ layer, start: open.start, end: Math.min(open.end, sizes[layer]!), order: open.order });
      open = null;
    };
    for (let page = 0; page < pages.length; page++) {
      const order = pages[page]!;
      if (order === 0) continue;
      const start = page * TOUCH_PAGE;
      if (open !== null && (start - open.end > gap || start - open.start >= MAX_RANGE)) close();
      open ??= { start, end: start, order };
      open = { start: open.start, end: start + TOUCH_PAGE, order: Math.min(open.order, order) };
    }
    close();
  }
  found.sort((a, b) => a.order - b.order);
  return found.map(({ layer, start, end }) => ({ layer, start, end }));
}

/** The spans that hold the ranges, each once, in the ranges' order: an archive's `profile` section. */
export function profileSpans(
  ranges: readonly TouchedRange[],
  tables: readonly Pick<SpanTable, 'layerOffset' | 'count'>[],
): { layer: Uint32Array; span: Uint32Array } {
  const layer: number[] = [];
  const span: number[] = [];
  const seen = tables.map((table) => new Uint8Array(table.count));
  for (const range of ranges) {
    const { layerOffset, count } = tables[range.layer]!;
    if (count === 0 || range.end <= range.start) continue;
    const last = spanAt(layerOffset, Math.min(range.end, layerOffset[count]!) - 1);
    for (let i = spanAt(layerOffset, range.start); i <= last; i++) {
      if (seen[range.layer]![i] === 1) continue;
      seen[range.layer]![i] = 1;
      layer.push(range.layer);
      span.push(i);
    }
  }
  return { layer: Uint32Array.from(layer), span: Uint32Array.from(span) };
}

/**
 * Where a layer's checkpoints belong so that the profile's ranges are spans of their own (workload-shaped spans): at the
 * ends of the ranges, and every `spanBytes` in between. For GzipIndexer's `cuts`; the layer's own ends are not listed.
 */
export function shapedCuts(
  ranges: readonly TouchedRange[],
  layer: LayerIndex,
  size: number,
  spanBytes: number,
): Float64Array {
  const bounds = new Set<number>();
  for (const range of ranges) {
    if (range.layer !== layer) continue;
    bounds.add(range.start);
    bounds.add(Math.min(range.end, size));
  }
  const sorted = [...bounds, 0, size].sort((a, b) => a - b);
  const cuts: number[] = [];
  for (let i = 1; i < sorted.length; i++) {
    const [from, to] = [sorted[i - 1]!, sorted[i]!];
    // Even pieces: a last one of a few bytes would cost a whole window.
    const parts = Math.max(1, Math.ceil((to - from) / spanBytes));
    for (let part = 1; part <= parts; part++) cuts.push(from + Math.floor(((to - from) * part) / parts));
  }
  return Float64Array.from(new Set(cuts.filter((cut) => cut > 0 && cut < size)));
}

const HINT = 'record one: run the program in a mount, then clipctl profile stop DIR --out FILE';

/** More starts than a profile ever counts. */
const MAX_COUNT = 1_000_000;

/** Reads a profile file's text. @throws ClipError BAD_FORMAT naming `name` */
export function parseProfile(text: string, name: string): RecordedProfile {
  const bad = (detail: string, cause?: unknown): ClipError =>
    new ClipError('BAD_FORMAT', `${name}: ${detail}`, { cause, hint: HINT });
  let value: Partial<RecordedProfile>;
  try {
    value = JSON.parse(text) as Partial<RecordedProfile>;
  } catch (cause) {
    throw bad('not JSON', cause);
  }
  if (value?.format !== PROFILE_FORMAT) throw bad(`not a profile ("format": "${PROFILE_FORMAT}" expected)`);
  const { manifestDigest, layers, ranges, starts } = value;
  if (typeof manifestDigest !== 'string') throw bad('no manifestDigest');
  if (!Array.isArray(layers) || !layers.every((digest) => typeof digest === 'string')) throw bad('no list of layers');
  if (!Array.isArray(ranges)) throw bad('no list of ranges');
  if (starts !== undefined && !isBetween(starts, 1, MAX_COUNT)) throw bad('starts is no number of starts');
  for (const [i, range] of ranges.entries()) {
    const { layer, start, end, starts: count, at } = (range ?? {}) as Partial<TouchedRange>;
    if (starts !== undefined && !(isBetween(count, 0, starts) && isBetween(at, 0, 1))) {
      throw bad(`range ${i} has not the starts and the place of a profile of several starts`);
    }
    const whole = [layer, start, end].every((n) => Number.isSafeInteger(n) && n! >= 0);
    if (!whole || layer! >= layers.length || end! <= start!) throw bad(`range ${i} is not {layer, start, end}`);
  }
  return { format: PROFILE_FORMAT, manifestDigest, layers, ranges, ...(starts === undefined ? {} : { starts }) };
}

function isBetween(value: unknown, least: number, most: number): boolean {
  return typeof value === 'number' && value >= least && value <= most;
}

/** Starts that a profile sums up; null: none. */
export function startsOf(profile: RecordedProfile | null): number {
  return profile === null ? 0 : (profile.starts ?? 1);
}
