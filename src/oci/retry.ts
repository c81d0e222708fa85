import { aborted, TransientError } from './errors.js';

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

/** Counts tries of one operation and waits between them. */
export class Backoff {
  readonly #policy: RetryPolicy;
  readonly #onRetry: () => void;
  #failures = 0;

  constructor(policy: RetryPolicy, onRetry: () => void) {
    this.#policy = policy;
    this.#onRetry = onRetry;
  }

  /** Progress was made: the count begins anew. */
  reset(): void {
    this.#failures = 0;
  }

  /** Waits before the next try, or throws `error` when it is not worth one. */
  async next(error: unknown, what: string, signal?: AbortSignal): Promise<void> {
    if (signal?.aborted) throw aborted(what, signal.reason);
    if (!(error instanceof TransientError)) throw error;
    this.#failures++;
    const { attempts, baseMs, maxMs, maxRetryAfterMs } = this.#policy;
    if (this.#failures >= attempts || (error.retryAfterMs ?? 0) > maxRetryAfterMs) throw error;
    this.#onRetry();
    const backoff = Math.min(maxMs, baseMs * 2 ** (this.#failures - 1));
    // Jitter, so that many clients cut off at once do not come back at once.
    const delay = Math.max(error.retryAfterMs ?? 0, backoff * (1 + Math.random() / 2));
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
