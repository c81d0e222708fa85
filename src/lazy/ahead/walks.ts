import type { SpanIndex } from '../../bytes/index.js';
import { MAX_STRIDE, MAX_WALKED, probabilityOfWalk, WALK_SPANS } from './policy.js';

/** Walks through one file that go on at the same time: a relocation goes through the table, and through the data that it names. */
const MAX_WALKS = 4;

interface Walk {
  /** The span that was reached last. */
  last: SpanIndex;
  /** 1 or −1; 0: one span was read, which may be the beginning of either. */
  direction: -1 | 0 | 1;
  /** Spans that were read, and the distance from the first to the last. */
  spans: number;
  distance: number;
}

/** What a walk comes to next. */
export interface Ahead {
  readonly from: SpanIndex;
  readonly direction: -1 | 1;
  readonly count: number;
  readonly probability: number;
}

/**
 * Walks through a file of several spans, upwards or downwards and in short steps: relocations go up through a library's data, destructors often
 * down through its code. They are told by the order in which spans are read first.
 */
export class Walks {
  /** The one that went on last stands first. */
  readonly #walks: Walk[] = [];

  /** A span was read for the first time. What the walk that it belongs to comes to next; null if it is no walk, or none yet. */
  note(span: SpanIndex): Ahead | null {
    const at = this.#walks.findIndex((walk) => continues(walk, span));
    const walk = at < 0 ? { last: span, direction: 0 as const, spans: 1, distance: 0 } : this.#walks[at]!;
    if (at >= 0) this.#walks.splice(at, 1);
    else if (this.#walks.length >= MAX_WALKS) this.#walks.pop();
    this.#walks.unshift(walk);
    return at < 0 ? null : advance(walk, span);
  }
}

function continues({ last, direction }: Walk, span: SpanIndex): boolean {
  const step = span - last;
  return Math.abs(step) <= MAX_STRIDE && step !== 0 && (direction === 0 || Math.sign(step) === direction);
}

function advance(walk: Walk, span: SpanIndex): Ahead | null {
  const direction = span > walk.last ? 1 : -1;
  walk.distance += Math.abs(span - walk.last);
  walk.last = span;
  walk.direction = direction;
  walk.spans++;
  if (walk.spans < WALK_SPANS) return null;
  // Twice as far with each span.
  const count = Math.min(MAX_WALKED, 2 ** (walk.spans - WALK_SPANS));
  return { from: span, direction, count, probability: probabilityOfWalk(walk.spans, walk.distance) };
}
