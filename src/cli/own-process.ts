let decline: (() => never) | null = null;

/** In a client in reserve: called where the command turns out to be more than it is there for. */
export function declineBy(how: () => never): void {
  decline = how;
}

/**
 * Stands in front of work that takes longer than a moment, starts other processes or stays: a client in reserve leaves it to a process of the
 * caller's own (docs/internals/start.md, "The client in reserve"). Nothing may have been done or printed before.
 */
export function needsOwnProcess(): void {
  decline?.();
}
