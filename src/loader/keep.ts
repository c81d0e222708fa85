/** Under which the loader of this thread leaves the function that keeps compiled code. Without a loader (tests, the library) there is none. */
export const KEEP: unique symbol = Symbol.for('clip.keepCode') as never;

/** After a first mount its client and readers have the cores to themselves for this long. */
const KEEP_AFTER_MS = 4000;

let scheduled = false;

/** What has been compiled by now is what the next run of this program needs: keeps it, unless it has been kept already. */
export function keepCode(): void {
  (globalThis as { [KEEP]?: () => void })[KEEP]?.();
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
