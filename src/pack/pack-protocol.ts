/** Files for a worker to pack, in columns: a record for each would be copied field by field. */
export interface PackColumns {
  /** Each with a NUL at its end. */
  readonly paths: Uint8Array;
  readonly size: Float64Array;
  readonly dev: BigUint64Array;
  readonly ino: BigUint64Array;
  readonly position: Float64Array;
}

/** One file for a worker to unpack. */
export interface UnpackItem {
  readonly index: number;
  /** Below the target directory's descriptor. */
  readonly path: Uint8Array;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtime: number;
  readonly mtimeNsec: number;
  readonly size: number;
  /** Where its content begins in the archive, and its length; the checksum follows. */
  readonly start: number;
  readonly length: number;
}

export type PackJob =
  | { readonly type: 'pack'; readonly out: number; readonly files: PackColumns }
  | {
      readonly type: 'unpack';
      readonly archive: number;
      readonly own: boolean;
      readonly items: readonly UnpackItem[];
    };

/** Answers a job. `hashes`: 32 bytes for each file that was packed. */
export interface PackResult {
  readonly hashes: Uint8Array;
  readonly bytes: number;
  /** `index`: of a file to pack, its place in the job. */
  readonly problems: readonly { readonly index: number; readonly detail: string }[];
  /** The worker cannot go on: the disk is full, say. */
  readonly failure: { readonly code: string; readonly detail: string } | null;
}
