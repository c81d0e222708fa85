import { TransientError } from '../oci/index.js';

/**
 * A request may take this long, and a second more for each MIN_BYTES_PER_SECOND. A server that sends just enough not to count
 * as silent would keep it for ever. 16 KiB/s is the rate of a very slow link; 8 MiB may take ten minutes.
 */
const MAX_REQUEST_MS = 60_000;
const MIN_BYTES_PER_SECOND = 16 * 1024;

/** Ends a request that takes too long. */
export class RequestLimit {
  readonly #ms: number;
  readonly #timer: NodeJS.Timeout;
  /** It was ended. */
  exceeded = false;

  constructor(bytes: number, abort: AbortController) {
    this.#ms = MAX_REQUEST_MS + (bytes / MIN_BYTES_PER_SECOND) * 1000;
    this.#timer = setTimeout(() => {
      this.exceeded = true;
      abort.abort();
    }, this.#ms).unref();
  }

  /** The request is over. */
  end(): void {
    clearTimeout(this.#timer);
  }

  error(what: string, cause: unknown): TransientError {
    return new TransientError(`${what} did not come within ${Math.round(this.#ms / 1000)} s`, {
      hint: 'the registry or the network is very slow',
      cause,
    });
  }
}
