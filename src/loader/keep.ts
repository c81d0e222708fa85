/** Under which the loader of this thread leaves the function that keeps compiled code. Without a loader (tests, the library) there is none. */
export const KEEP: unique symbol = Symbol.for('clip.keepCode') as never;

/** After a first mount, or a first fetch, its client and readers have the cores to themselves for this long. */
export const KEEP_AFTER_MS = 4000;

let scheduled = false;

/**
 * What has been compiled by now is what the next run of this program needs: keeps it, unless it has been kept already. V8 compiles a function
 * when it is first called, so a run that has come further has more to keep.
 * @param depth  0: the program has done what each run of it does; more: it has gone on to what only some runs come to
 */
export function keepCode(depth = 0): void {
  (globalThis as { [KEEP]?: (depth: number) => void })[KEEP]?.(depth);
}

/** The same, a while later, and then `after`. */
export function keepCodeSoon(after: () => void = () => {}): void {
  if (scheduled) return;
  scheduled = true;
  setTimeout(() => {
    keepCode();
    after();
  }, KEEP_AFTER_MS).unref();
}
