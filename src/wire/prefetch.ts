/** Spans to be fetched before a reader asks for them. */
export type PrefetchWish =
  /** What the archive's profile names, in its order. */
  | { readonly what: 'profile' }
  /** Files of the image: paths, directories with all below them, globs. */
  | { readonly what: 'paths'; readonly paths: readonly string[] }
  /** Everything. */
  | {
      readonly what: 'image';
      /** Compressed bytes a second; undefined: as fast as it goes. */
      readonly bytesPerSecond?: number | undefined;
      /** Only while no reader waits, at a rate that leaves the link usable. */
      readonly background?: boolean;
    };

/** One such wish and how far it is. */
export interface PrefetchState {
  /** Unique over all servers of a clipd. */
  readonly id: string;
  readonly what: PrefetchWish['what'];
  readonly paths?: readonly string[];
  /** Where a profile comes from: the archive, earlier starts on this machine, those of others by a content cache, or the image's registry. */
  readonly from?: 'archive' | 'kept' | 'shared' | 'registry';
  /** `incomplete`: `reason` says why it stopped, or what it did without. */
  readonly state: 'running' | 'done' | 'incomplete' | 'cancelled';
  readonly reason?: string;
  /** Spans that are to be there, are there, and were given up. */
  readonly spans: { readonly total: number; readonly done: number; readonly failed: number };
  /** Their compressed bytes. */
  readonly bytes: { readonly total: number; readonly done: number };
  /** ISO 8601. */
  readonly startedAt: string;
}
