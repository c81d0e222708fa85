import { constants } from 'node:os';
import { ClipError } from '../bytes/index.js';

/** Passed on to the runtime, which passes them on to the container's first process. */
const FORWARDED: readonly NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'];
/** Of these, the ones that ask a program to end. */
export const ENDING: readonly NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'];

/**
 * The signals that this process gets while it runs a container. Before the container runs they call it off, while it runs they go to
 * it, and afterwards what was made for it is taken down in peace. Only a second one that finds no container ends this process at once.
 */
export class SignalRelay {
  readonly #abort = new AbortController();
  #target: ((signal: NodeJS.Signals) => void) | null = null;
  #hasRun = false;
  /** The first that asked for an end. */
  received: NodeJS.Signals | null = null;

  readonly #onSignal = (signal: NodeJS.Signals): void => {
    const again = this.received !== null;
    if (ENDING.includes(signal)) this.received ??= signal;
    if (this.#target !== null) this.#target(signal);
    else if (!this.#hasRun && this.received !== null) {
      if (again) process.exit(128 + constants.signals[signal]); // what hangs is not to be waited for
      this.#abort.abort();
    }
  };

  constructor() {
    for (const name of FORWARDED) process.on(name, this.#onSignal);
  }

  /** Aborted when it is called off before the container runs. */
  get calledOff(): AbortSignal {
    return this.#abort.signal;
  }

  /** @throws ClipError ABORTED when it was called off */
  check(): void {
    if (this.received !== null) throw new ClipError('ABORTED', `ended by ${this.received}`);
  }

  /** Where signals go from now on; null: nowhere. */
  relayTo(target: ((signal: NodeJS.Signals) => void) | null): void {
    this.#target = target;
    this.#hasRun ||= target !== null;
  }

  /** They have their usual effect again. */
  close(): void {
    for (const name of FORWARDED) process.removeListener(name, this.#onSignal);
  }
}
