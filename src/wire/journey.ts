import type { Source } from '../metrics/index.js';

/** Journeys of mounts that have ended are kept in this directory of the cache, for a day. */
export const JOURNEYS_DIRECTORY = 'journeys';
export const JOURNEY_KEPT_MS = 24 * 3600 * 1000;

/** Reads and fetches of a mount, a column for each of their numbers. Times are milliseconds since the mount. */
export interface JourneyColumns {
  /** What the columns `source` count from 0. */
  readonly sources: readonly Source[];
  /** Reads that were not answered from the span cache at once. A source of -1 is an error. */
  readonly reads: Readonly<Record<'at' | 'took' | 'nid' | 'offset' | 'length' | 'source', readonly number[]>>;
  /** Spans [first, end) of a layer. Reasons: 0 a reader waited, 1 read-ahead, 2 prefetch, 3 fill, 4 speculation. */
  readonly fetches: Readonly<
    Record<'at' | 'took' | 'layer' | 'first' | 'end' | 'bytes' | 'reason' | 'source', readonly number[]>
  >;
  /** Those that came later and were not kept. */
  readonly droppedReads: number;
  readonly droppedFetches: number;
}

/** What became of a span: nothing read or fetched; read, fetched for it; read, fetched ahead; fetched ahead, unread; read, was there. */
export const SpanFate = { untouched: 0, demanded: 1, foreseen: 2, unread: 3, cached: 4 } as const;

export interface JourneyLayer {
  readonly digest: string;
  /** Compressed, and as a tar. */
  readonly size: number;
  readonly uncompressedSize: number;
  /** The end of each span in the tar, in bytes. */
  readonly ends: readonly number[];
  /** By span: a SpanFate. */
  readonly fates: readonly number[];
}

/** Everything that `clipctl report` shows of one mounted image. */
export interface JourneyReply {
  readonly format: 1;
  readonly reference: string;
  readonly archivePath: string;
  /** Of the archive: paths are looked up in it and in no other. */
  readonly identity: string;
  readonly places: readonly string[];
  /** ISO 8601. */
  readonly mountedAt: string;
  /** Null: it is mounted. */
  readonly endedAt: string | null;
  readonly profile: string | null;
  /**
   * When a container's first process began to run, and when its output began, in milliseconds since the mount. Null: the runtime has not
   * told. Of the first container of each image; clipd has it from `clipctl run`, the output with `--stats` only.
   */
  readonly firstExec: number | null;
  readonly firstOutput: number | null;
  readonly layers: readonly JourneyLayer[];
  readonly columns: JourneyColumns;
}

/** A read that was passed on because its bytes were not in the span cache, as `GET /v1/trace` tells it. */
export interface TracedRead {
  /** ISO 8601: when the read was asked for. */
  readonly time: string;
  /** The number of the file in the archive's tree. */
  readonly nid: number;
  readonly offset: number;
  /** Bytes that the reader got. */
  readonly length: number;
  /** Of the bytes that were waited for longest; null: a hole, or an error. */
  readonly source: Source | null;
  /** Milliseconds. */
  readonly duration: number;
  /** Of the reader's process; null: the kernel or another process id namespace. */
  readonly pid: number | null;
  readonly command: string | null;
  /** From its cgroup. */
  readonly container: string | null;
  readonly error: string | null;
}
