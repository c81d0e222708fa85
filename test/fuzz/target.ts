import type { Random } from './random.js';

/** The interface of test/fuzz/NAME.ts. */
export interface FuzzTarget {
  /** Valid and nearly valid inputs to start from, made by builders: small ones, each different in kind. */
  corpus(): Uint8Array[] | Promise<Uint8Array[]>;
  /**
   * Runs the code under test. Typed refusals (FormatError) are caught inside; any error that is thrown is a bug. May return a
   * word about the outcome, such as the error's detail: an input with a new word joins the corpus.
   */
  execute(input: Uint8Array): string | undefined | Promise<string | undefined>;
  /** A change that knows the format, such as one that repairs checksums. Tried beside the general ones. */
  mutate?(input: Uint8Array, random: Random): Uint8Array;
  /** Mutations of each kind in regressions.test.ts; default 300. */
  readonly mutationsInTests?: number;
  /** Ends what the target has started. */
  close?(): Promise<void>;
}

/** Inputs grow no larger than this: it is also the room for the one under test in shared memory. */
export const MAX_INPUT_BYTES = 1 << 20;

export const TARGETS = [
  'gzip',
  'zstd',
  'tar',
  'erofs',
  'rewrite',
  'clip',
  'layer',
  'languages',
  'gob',
  'legacy',
  'mounts',
  'parts',
] as const;

export async function loadTarget(name: string): Promise<FuzzTarget> {
  const target = (await import(`./${name}.js`)) as FuzzTarget;
  // Arrays and not Buffers, whose slice() is a view: mutations of the one would alter the other.
  return { ...target, corpus: async () => (await target.corpus()).map((input) => Uint8Array.from(input)) };
}
