import type { LazyCounters } from './counters.js';
import { Priority } from './protocol.js';

/** What was fetched ahead and has not been read yet, in compressed bytes: useful or wasted, that will show. */
export class UnreadAccount {
  readonly #spans = new Map<number, { bytes: number; prefetch: boolean }>();

  constructor(readonly counters: LazyCounters) {}

  add(span: number, bytes: number, fetchedAs: Priority): void {
    if (fetchedAs !== Priority.demand) this.#spans.set(span, { bytes, prefetch: fetchedAs !== Priority.readahead });
  }

  /** Books a span as useful once it was read, as wasted once it is gone unread. */
  settle(wasRead: (span: number) => boolean, isGone: (span: number) => boolean): void {
    const { counters } = this;
    for (const [span, { bytes, prefetch }] of this.#spans) {
      const used = wasRead(span);
      if (!used && !isGone(span)) continue;
      this.#spans.delete(span);
      if (used) (prefetch ? counters.prefetchUseful : counters.readaheadUseful).add(bytes);
      else (prefetch ? counters.prefetchWasted : counters.readaheadWasted).add(bytes);
    }
  }
}
