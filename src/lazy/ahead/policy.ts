import type { LinkCost } from '../link.js';

/**
 * The one place that says what is worth fetching before a reader asks for it (docs/internals/fetching-ahead.md). Pure: numbers in, numbers
 * out.
 */

/**
 * What one read span says of others, as the probability that it alone gives them. Chosen over the recorded reads of eight first starts
 * (docs/internals/fetching-ahead.md, "Where the numbers come from"): the rest of a file that is read here and there is nearly always
 * read, and most of what lies near in other files is not, unless all around it was, as by a walk of a directory.
 */
const NEAR = [0, 0.12, 0.1, 0.08, 0.08, 0.07, 0.07, 0.06, 0.06];
const SAME_FILE = 0.3;
const SAME_FILE_FAR = 0.12;
const FAR = 8;
/** Spans on either side that a read says something of. */
export const REACH = 64;

/** Evidence adds up: that of two spans is the sum of theirs. Its unit is −ln of the probability that the span is not read. */
const evidence = (probability: number): number => -Math.log(1 - probability);
const NEAR_EVIDENCE = NEAR.map(evidence);
const SAME_FILE_EVIDENCE = evidence(SAME_FILE);
const SAME_FILE_FAR_EVIDENCE = evidence(SAME_FILE_FAR);

/** What the read of a span says of one that many spans away, 0 for nothing. */
export function evidenceAt(distance: number, sameFile: boolean): number {
  if (sameFile) return distance <= FAR ? SAME_FILE_EVIDENCE : SAME_FILE_FAR_EVIDENCE;
  return NEAR_EVIDENCE[distance] ?? 0;
}

/**
 * What a program or library that was opened says of the spans of its code and constants: recorded starts read 0.9 of those of a compiler,
 * 0.8 of a JVM's. Of larger ones a start may need a part: OpenBLAS has 37 MB of code, one copy of each function for each kind of processor.
 */
export function evidenceOfCode(segmentBytes: number): number {
  return evidence(CODE * Math.min(1, USUAL_CODE_BYTES / segmentBytes));
}
const CODE = 0.8;
const USUAL_CODE_BYTES = 16 * 1024 * 1024;

/** A walk takes steps of so many spans at the most, … */
export const MAX_STRIDE = 3;
/** … and is one when it has come to so many. */
export const WALK_SPANS = 2;
/** Spans that a walk is followed ahead, at the most. Readers do not come sooner to what lies further. */
export const MAX_WALKED = 16;
/** Two spans tell a direction, which comes before what lies around them; three leave little doubt. */
const [BEGUN, WALKED] = [0.6, 0.9];

/** That a walk which came to `spans` spans over a distance comes to the next one: a stride of two goes past every second span. */
export function probabilityOfWalk(spans: number, distance: number): number {
  return (spans > WALK_SPANS ? WALKED : BEGUN) * Math.min(1, (spans - 1) / distance);
}

/** How well guesses of one kind have done. */
export class Record {
  #expected = 0;
  #right = 0;

  /** A guess was right, or proved useless. */
  settle(probability: number, right: boolean): void {
    this.#expected += probability;
    if (right) this.#right++;
  }

  /** It proved useless, and was right all the same. */
  late(): void {
    this.#right++;
  }

  /** What evidence is worth here: 1 as elsewhere, nearly 0 where spans are read at random. */
  get trust(): number {
    return Math.min(MAX_TRUST, (this.#right + DOUBT) / (this.#expected + DOUBT));
  }
}

/** Guesses that it takes to change an opinion. */
const DOUBT = 2;
const MAX_TRUST = 2;

export function probabilityOf(sum: number, { trust }: Record): number {
  return 1 - Math.exp(-sum * trust);
}

/** The same of what is known as a probability. */
export function trusted(probability: number, record: Record): number {
  return probabilityOf(evidence(probability), record);
}

/** What an inflate worker does in a millisecond, the digest and the write to the cache included (docs/benchmarks.md, "inflate"). */
const INFLATED_BYTES_PER_MS = 400_000;

/**
 * Whether a guess pays. A right one saves a reader the round trip, the transfer and the inflating; a wrong one keeps link and worker
 * busy that long. A slow link so asks for likely guesses, one with a long round trip takes more risk.
 */
export function pays(probability: number, compressed: number, inflated: number, link: LinkCost): boolean {
  if (probability < LEAST_PROBABILITY) return false;
  const cost = compressed / link.bytesPerMs + inflated / INFLATED_BYTES_PER_MS;
  return probability * (link.roundTripMs + cost) > (1 - probability) * cost;
}

/**
 * What is less likely is not fetched even over a long way: a round trip that was measured on a busy machine is too long, and one read of a file
 * says too little of its rest (docs/benchmarks.md, "Why these constants").
 */
const LEAST_PROBABILITY = 0.44;

/** Compressed bytes of guesses that may be on their way: what the link carries in a round trip. A reader that comes then waits no longer than that. */
export function mayBeComing({ roundTripMs, bytesPerMs }: LinkCost): number {
  return Math.min(MAX_COMING, roundTripMs * bytesPerMs);
}
const MAX_COMING = 8_000_000;

/** Compressed bytes of wrong guesses, at the most and whatever the link. */
const MAX_UNREAD = 6_000_000;
/** On slower links that which they carry in this time and two round trips. */
const UNREAD_MS = 10;
/** Right guesses earn this share of their bytes, and all reads this, so that a mount that lives long may guess again. */
const EARNED_SHARE = 0.5;
const READ_SHARE = 0.2;

/** Compressed bytes of guesses that may lie unread: the bound of what is wasted. */
export function mayLieUnread({ roundTripMs, bytesPerMs }: LinkCost, rightBytes: number, readBytes: number): number {
  const stake = Math.min(MAX_UNREAD, bytesPerMs * (2 * roundTripMs + UNREAD_MS));
  return stake + EARNED_SHARE * rightBytes + READ_SHARE * readBytes;
}

/**
 * Bytes that walks may have unread beyond the bound above, which wrong guesses of other kinds use up: as many as the link carries in a round trip, and a share
 * of what they came to. A walk in steps of two goes past every second span, and pays for itself all the same.
 */
export function mayBeWalked(link: LinkCost, walkedBytes: number): number {
  return mayBeComing(link) + EARNED_SHARE * walkedBytes;
}

/**
 * Compressed bytes that may lie unread of what references lead to: so much, and a share of all that was read. That is what they cost at
 * the most, whatever is read and however wrong they are. The first is two round trips of 20 ms at 1 Gbit/s.
 */
export function mayBeReferred(readBytes: number, why: Reason = 'led to'): number {
  return REFERRED_UNREAD + UNREAD_SHARE * readBytes + MORE_UNREAD[why];
}
/** A file that a reference leads to; one that a command names; what the loader touches of a library that was opened. */
export type Reason = 'led to' | 'named' | 'loaded';
/**
 * What a command names is hardly ever in vain, and small: it does not wait until other files that are known have been read. What a loader touches is
 * never in vain; cuBLASLt's relocations write 37 spans of 17 MB.
 */
const MORE_UNREAD: { readonly [reason in Reason]: number } = { 'led to': 0, named: 2_000_000, loaded: 16_000_000 };
const REFERRED_UNREAD = 7_000_000;
const UNREAD_SHARE = 1;

/** The same of references and guesses together, of which some were right. */
export function mayLieUnreadInAll(readBytes: number, rightBytes: number): number {
  return ALL_UNREAD + UNREAD_SHARE * readBytes + EARNED_SHARE * rightBytes;
}
const ALL_UNREAD = 8_000_000;

/**
 * Gaps that a request for known spans goes across: another request costs the registry and us as much as this many bytes. Measured at 1 Gbit/s
 * and 20 ms, where 192 KiB were best (docs/benchmarks.md, "Why these constants"): a thirteenth of what the link carries in a round trip.
 */
export function joinGap({ known, roundTripMs, bytesPerMs }: LinkCost): number {
  if (!known) return JOIN_GAP;
  return Math.min(MAX_JOIN_GAP, Math.max(MIN_JOIN_GAP, (roundTripMs * bytesPerMs) / 13));
}

/**
 * The same of a request that asks for each stretch as a range of its own: what the link carries while a registry makes a part. Debian's takes
 * 1.2 ms of CPU time for it, which other requests can use the link in (docs/benchmarks.md, "Why these constants").
 */
export function partGap({ known, bytesPerMs }: LinkCost): number {
  return known ? Math.min(MAX_PART_GAP, Math.max(MIN_PART_GAP, bytesPerMs * PART_MS)) : PART_GAP;
}
const PART_MS = 0.5;
/** Of a link that was not measured yet. */
const PART_GAP = 32 * 1024;
const MIN_PART_GAP = 4 * 1024;
const MAX_PART_GAP = 256 * 1024;

/**
 * Bytes of one request for several ranges of known spans: what the link carries in a round trip. The least makes some 16 requests of a start of
 * 20 MB.
 */
export function profileRequest({ known, roundTripMs, bytesPerMs }: LinkCost): number {
  return known
    ? Math.min(MAX_PROFILE_REQUEST, Math.max(MIN_PROFILE_REQUEST, roundTripMs * bytesPerMs))
    : MIN_PROFILE_REQUEST;
}
const MIN_PROFILE_REQUEST = 1280 * 1024;
const MAX_PROFILE_REQUEST = 3 * 1024 * 1024;

/**
 * The same of what readers may come to while it comes: a reader that waits for its end waits for no more than a round trip's worth of other
 * bytes. Over a slow link it is less than a span, and each stretch has a request of its own.
 */
export function aheadRequest({ known, roundTripMs, bytesPerMs }: LinkCost): number {
  return known ? Math.min(MAX_PROFILE_REQUEST, roundTripMs * bytesPerMs) : MIN_PROFILE_REQUEST;
}

/**
 * Bytes to come of requests for a profile, beyond which no other leaves: the link must not idle during a round trip, nor while the registry
 * makes the parts of the next one. One and a half requests at the least, so that two are on their way.
 */
export function profileComing(link: LinkCost): number {
  if (!link.known) return FIRST_PROFILE_COMING;
  const busy = Math.min(MAX_PROFILE_COMING, link.bytesPerMs * (link.roundTripMs + MAKING_MS));
  return Math.max(1.5 * profileRequest(link), busy);
}
const MAX_PROFILE_COMING = 8 * 1024 * 1024;
/** What 1 Gbit/s carries in a round trip of 20 ms and a little more. What is asked for across the gaps of a link that is not known costs bytes, or ranges. */
const FIRST_PROFILE_COMING = 3 * 1024 * 1024;
/** Of 40 parts in docker-registry. */
const MAKING_MS = 40;

/** Bytes to come of earlier answers, beyond which a later one is left in its socket: what keeps the link busy until that flows. */
export function mayComeBefore({ known, bytesPerMs, roundTripMs }: LinkCost): number {
  if (!known) return FIRST_PROFILE_COMING;
  return bytesPerMs * (roundTripMs + RESUMED_MS);
}
/** Until a thread that is busy comes to take it. */
const RESUMED_MS = 10;

/** Of a link that was not measured yet, as those of the first requests for a profile. */
const JOIN_GAP = 192 * 1024;
const MIN_JOIN_GAP = 64 * 1024;
const MAX_JOIN_GAP = 1024 * 1024;
