import { PROFILE_FORMAT, type RecordedProfile, type TouchedRange } from './profile.js';

/** Starts that a profile remembers: each new one takes its part of those before it, so that a profile follows a changed program. */
const MAX_STARTS = 16;
/** A range is forgotten when it has come down to this part of a start: about 20 starts after the only one that read it. */
const FORGOTTEN = 0.25;
/** A range is fetched ahead if at least this part of the starts has read it. */
const FETCHED_SHARE = 0.25;
/** Kept of a profile, those that most starts read first: 1.2 MB of JSON. The start of a program that loads 250 MB has some 3,000. */
export const MAX_RANGES = 16_384;
/** As in touchedRanges(): pieces up to this are no ranges of their own beside a neighbour, and no range is longer. */
const SMALL = 32 * 1024;
const MAX_RANGE = 4 * 1024 * 1024;

interface Weighed {
  readonly layer: number;
  start: number;
  end: number;
  starts: number;
  at: number;
}

/**
 * A profile of the starts of `base` and one more. In order: what most starts read comes first, and of that what they read first. A start
 * that did not read a range counts as one that read it last.
 */
export function addStart(base: RecordedProfile | null, start: RecordedProfile): RecordedProfile {
  const before = base?.starts ?? (base === null ? 0 : 1);
  const part = before + 1 > MAX_STARTS ? (MAX_STARTS - 1) / before : 1;
  const starts = before * part + 1;
  const [old, fresh] = [base === null ? [] : weigh(base, part), weigh(start, 1)];
  const merged: Weighed[] = [];
  for (let layer = 0; layer < start.layers.length; layer++) {
    const pieces = overlay(disjoint(old, layer), disjoint(fresh, layer));
    merged.push(...joined(pieces.filter((piece) => piece.starts > FORGOTTEN)));
  }
  /** The mean place over all starts. */
  const place = (range: Weighed): number => (range.at * range.starts + (starts - range.starts)) / starts;
  const rare = (range: Weighed): number => Number(range.starts < starts / 2);
  merged.sort((a, b) => rare(a) - rare(b) || place(a) - place(b));
  return {
    format: PROFILE_FORMAT,
    manifestDigest: start.manifestDigest,
    layers: start.layers,
    starts: rounded(starts, 100),
    ranges: merged.slice(0, MAX_RANGES).map((range) => ({
      ...range,
      starts: Math.min(rounded(range.starts, 100), rounded(starts, 100)),
      at: rounded(range.at, 10_000),
    })),
  };
}

/** What is worth fetching ahead of a start, in order. */
export function expectedRanges({ ranges, starts }: RecordedProfile): readonly TouchedRange[] {
  return starts === undefined ? ranges : ranges.filter((range) => range.starts! >= starts * FETCHED_SHARE);
}

function rounded(value: number, steps: number): number {
  return Math.round(value * steps) / steps;
}

function weigh({ ranges, starts }: RecordedProfile, part: number): Weighed[] {
  if (starts !== undefined) {
    return ranges.map(({ layer, start, end, starts: count, at }) => ({
      ...{ layer, start, end },
      starts: count! * part,
      at: at!,
    }));
  }
  const total = ranges.reduce((sum, { start, end }) => sum + end - start, 0);
  let before = 0;
  return ranges.map(({ layer, start, end }) => {
    const at = before / total;
    before += end - start;
    return { layer, start, end, starts: part, at };
  });
}

/** The ranges of a layer in the order of their bytes, each byte in one of them. */
function disjoint(ranges: readonly Weighed[], layer: number): Weighed[] {
  const sorted = ranges.filter((range) => range.layer === layer).sort((a, b) => a.start - b.start);
  const found: Weighed[] = [];
  let done = 0;
  for (const range of sorted) {
    const start = Math.max(done, range.start);
    if (range.end <= start) continue;
    found.push({ ...range, start });
    done = range.end;
  }
  return found;
}

/** Cut where a range of either list begins or ends: what both have counts twice. */
function overlay(a: readonly Weighed[], b: readonly Weighed[]): Weighed[] {
  const bounds = [...new Set([...a, ...b].flatMap(({ start, end }) => [start, end]))].sort((x, y) => x - y);
  const pieces: Weighed[] = [];
  let [i, j] = [0, 0];
  for (let k = 1; k < bounds.length; k++) {
    const [start, end] = [bounds[k - 1]!, bounds[k]!];
    while (i < a.length && a[i]!.end <= start) i++;
    while (j < b.length && b[j]!.end <= start) j++;
    const both = [a[i], b[j]].filter((range): range is Weighed => range !== undefined && range.start <= start);
    if (both.length === 0) continue;
    const starts = both.reduce((sum, range) => sum + range.starts, 0);
    const at = both.reduce((sum, range) => sum + range.starts * range.at, 0) / starts;
    pieces.push({ layer: both[0]!.layer, start, end, starts, at });
  }
  return pieces;
}

/** Kernels read ahead a little differently each time: small pieces go with their neighbour, so that their number does not grow. */
function joined(pieces: readonly Weighed[]): Weighed[] {
  const ranges: Weighed[] = [];
  for (const piece of pieces) {
    const last = ranges.at(-1);
    const alike = last !== undefined && last.starts === piece.starts && Math.abs(last.at - piece.at) < 1 / 1000;
    const small = last !== undefined && Math.min(last.end - last.start, piece.end - piece.start) <= SMALL;
    if (
      last === undefined ||
      piece.start - last.end > SMALL ||
      piece.end - last.start > MAX_RANGE ||
      !(alike || small)
    ) {
      ranges.push({ ...piece });
      continue;
    }
    last.end = piece.end;
    last.at = Math.min(last.at, piece.at);
    last.starts = Math.max(last.starts, piece.starts);
  }
  return ranges;
}
