import { aborted, DoubtfulError, TransientError } from './errors.js';

export interface RetryPolicy {
  /** Tries without progress, the first included. */
  readonly attempts: number;
  /** First delay; doubled each time. */
  readonly baseMs: number;
  readonly maxMs: number;
  /** A Retry-After beyond this is not waited for. */
  readonly maxRetryAfterMs: number;
}

/** 0.1 + 0.2 + 0.4 + 0.8 + 1.6 s and half as much jitter: a restarted load balancer is back by then, a user still waits. */
export const DEFAULT_RETRY: RetryPolicy = { attempts: 6, baseMs: 100, maxMs: 5_000, maxRetryAfterMs: 60_000 };

/** Refusals in a row that a server may give which has served before: some 3 s, for a login that has really ended. */
const MAX_DOUBTS = 5;

/** Counts tries of one operation and waits between them. */
export class Backoff {
  readonly #policy: RetryPolicy;
  readonly #onRetry: () => void;
  readonly #served: () => boolean;
  #failures = 0;
  #doubts = 0;

  /** @param served whether the server has given something of this kind before: see DoubtfulError */
  constructor(policy: RetryPolicy, onRetry: () => void, served: () => boolean = () => false) {
    this.#policy = policy;
    this.#onRetry = onRetry;
    this.#served = served;
  }

  /** Progress was made: the count begins anew. */
  reset(): void {
    this.#failures = 0;
    this.#doubts = 0;
  }

  /** Waits before the next try, or throws `error` when it is not worth one. */
  async next(error: unknown, what: string, signal?: AbortSignal): Promise<void> {
    if (signal?.aborted) throw aborted(what, signal.reason);
    const doubtful = error instanceof DoubtfulError && this.#served() && this.#doubts++ < MAX_DOUBTS;
    if (!(error instanceof TransientError) && !doubtful) throw error;
    const retryAfterMs = error instanceof TransientError ? (error.retryAfterMs ?? 0) : 0;
    this.#failures++;
    const { attempts, baseMs, maxMs, maxRetryAfterMs } = this.#policy;
    if (this.#failures >= attempts || retryAfterMs > maxRetryAfterMs) {
      // Few of the failures were refusals: the caller may come back to it later, as to any trouble that passes.
      throw doubtful ? new TransientError(error.message, { hint: error.hint, cause: error }) : error;
    }
    this.#onRetry();
    const backoff = Math.min(maxMs, baseMs * 2 ** (this.#failures - 1));
    // Jitter, so that many clients cut off at once do not come back at once.
    const delay = Math.max(retryAfterMs, backoff * (1 + Math.random() / 2));
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => {
        signal?.removeEventListener('abort', onAbort);
        resolve();
      }, delay);
      const onAbort = (): void => {
        clearTimeout(timer);
        reject(aborted(what, signal?.reason));
      };
      signal?.addEventListener('abort', onAbort, { once: true });
    });
  }
}
