import type { SpanIndex } from '../../bytes/index.js';
import type { LazyCounters } from '../counters.js';
import { Priority } from '../inflate-tasks.js';

type Ahead = Exclude<Priority, typeof Priority.demand>;

/** What was fetched ahead and has not been read yet, in compressed bytes: useful or wasted, that will show. */
export class UnreadAccount {
  readonly #spans = new Map<number, { bytes: number; fetchedAs: Ahead }>();

  constructor(readonly counters: LazyCounters) {}

  add(span: SpanIndex, bytes: number, fetchedAs: Priority): void {
    if (fetchedAs !== Priority.demand) this.#spans.set(span, { bytes, fetchedAs });
  }

  /** Books a span as useful once it was read, as wasted once it is gone unread. */
  settle(wasRead: (span: SpanIndex) => boolean, isGone: (span: SpanIndex) => boolean): void {
    const { counters } = this;
    for (const [span, { bytes, fetchedAs }] of this.#spans) {
      const used = wasRead(span);
      if (!used && !isGone(span)) continue;
      this.#spans.delete(span);
      (used ? counters.useful : counters.wasted)[fetchedAs].add(bytes);
    }
  }
}
