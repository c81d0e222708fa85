import { counted } from '../bytes/index.js';
import { type JourneyReply, SpanFate } from '../wire/index.js';

export interface JourneySummary {
  readonly reads: number;
  /** From every source but the disk cache. */
  readonly fetches: number;
  readonly fetchedBytes: number;
  /** Milliseconds in which at least one read waited. */
  readonly waited: number;
  /** Compressed bytes that were fetched ahead and not read; an estimate from the spans. */
  readonly unreadBytes: number;
  /** What to do, most useful first; a sentence each. */
  readonly advice: readonly string[];
}

/** Less than this is not worth a word. */
const LITTLE_MS = 100;
const LITTLE_BYTES = 5e6;
const SLOW_SOURCE_MS = 200;
/** Sources that are asked over the network. */
const REMOTE = new Set(['registry', 'mirror', 's3', 'content_cache']);

/** The length of the union of intervals [at, at + took), in any order. */
function unionOf(at: readonly number[], took: readonly number[]): number {
  const order = Array.from(at.keys()).sort((a, b) => at[a]! - at[b]!);
  let sum = 0;
  let end = Number.NEGATIVE_INFINITY;
  for (const i of order) {
    const from = Math.max(at[i]!, end);
    const to = at[i]! + took[i]!;
    if (to <= from) continue;
    sum += to - from;
    end = to;
  }
  return sum;
}

const sumOf = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0);

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}

const seconds = (milliseconds: number): string => `${(milliseconds / 1000).toFixed(1)} s`;
const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;

export function summaryOf(journey: JourneyReply): JourneySummary {
  const { columns, layers, profile } = journey;
  const { reads, fetches, sources } = columns;
  const remote = Array.from(fetches.at.keys()).filter((i) => REMOTE.has(sources[fetches.source[i]!] ?? ''));
  const pick = (column: readonly number[]): number[] => remote.map((i) => column[i]!);
  const remoteBytes = sumOf(pick(fetches.bytes));
  const fetched = Array.from(fetches.at.keys()).filter((i) => sources[fetches.source[i]!] !== 'disk_cache');
  const waited = unionOf(reads.at, reads.took);
  const unreadSpans = layers.reduce((sum, { size, uncompressedSize, ends, fates }) => {
    const unread = fates.reduce(
      (bytes, fate, span) => (fate === SpanFate.unread ? bytes + ends[span]! - (ends[span - 1] ?? 0) : bytes),
      0,
    );
    return sum + (uncompressedSize === 0 ? 0 : (unread * size) / uncompressedSize);
  }, 0);
  const fetchedFor = (...reasons: readonly number[]): number =>
    sumOf(fetched.filter((i) => reasons.includes(fetches.reason[i]!)).map((i) => fetches.bytes[i]!));
  const unreadBytes = Math.min(unreadSpans, fetchedFor(1, 2, 3, 4));
  // Without a fill, which fetches everything because it was asked to.
  const guessedBytes = Math.min(unreadBytes, fetchedFor(1, 2, 4));
  const advice: string[] = [];

  const failed = reads.source.filter((source) => source === -1).length;
  if (failed > 0)
    advice.push(`${counted(failed, 'read')} failed or ${failed === 1 ? 'was' : 'were'} given up: clipd.log says why.`);
  // What a profile does: the same bytes at the rate of the link, one round trip after the mount.
  const linkTime = unionOf(pick(fetches.at), pick(fetches.took));
  const roundTrip = Math.min(...pick(fetches.took), waited);
  const saved =
    waited - (linkTime === 0 ? 0 : roundTrip + (remoteBytes - unreadBytes) / (bestRate(journey, remote) || 1));
  if (profile !== 'recorded' && saved > LITTLE_MS) {
    advice.push(
      `Readers waited ${seconds(waited)}. A recorded profile (clipctl optimize) would have saved about ${seconds(saved)} of it.`,
    );
  }
  if (guessedBytes > LITTLE_BYTES && guessedBytes > 0.3 * remoteBytes) {
    advice.push(
      `About ${megabytes(guessedBytes)} of the ${megabytes(remoteBytes)} fetched were fetched ahead and not read: a profile recorded anew (clipctl optimize) fetches less.`,
    );
  }
  const latency = median(pick(fetches.took));
  if (remote.length > 0 && latency > SLOW_SOURCE_MS && waited > LITTLE_MS) {
    advice.push(
      `Half of the requests took more than ${Math.round(latency)} ms: a mirror nearby (hosts.toml) or a shared cache (--content-cache) would help.`,
    );
  }
  if (advice.length === 0) advice.push(`Readers waited ${seconds(waited)} in all. There is nothing to mend.`);
  const fetchedBytes = sumOf(fetched.map((i) => fetches.bytes[i]!));
  return { reads: reads.at.length, fetches: fetched.length, fetchedBytes, waited, unreadBytes, advice };
}

/** Bytes per millisecond in the best tenth of a second: what the link gives when it is asked for enough. */
function bestRate({ columns: { fetches } }: JourneyReply, remote: readonly number[]): number {
  const SLOT = 100;
  const slots = new Map<number, number>();
  for (const i of remote) {
    const [at, took, bytes] = [fetches.at[i]!, Math.max(fetches.took[i]!, 1), fetches.bytes[i]!];
    for (let slot = Math.floor(at / SLOT); slot * SLOT < at + took; slot++) {
      const inside = Math.min((slot + 1) * SLOT, at + took) - Math.max(slot * SLOT, at);
      slots.set(slot, (slots.get(slot) ?? 0) + (bytes * inside) / took);
    }
  }
  return Math.max(0, ...slots.values()) / SLOT;
}
