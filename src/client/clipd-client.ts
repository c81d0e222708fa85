import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { AbortError, ClipError } from '../bytes/index.js';
import type { Metric } from '../metrics/index.js';
import { OwnDirectory } from '../paths/index.js';
import {
  API,
  type CachedLayerReply,
  type CachePruneReply,
  type CachePruneRequest,
  type CacheReply,
  type CacheVerifyReply,
  type ErrorReply,
  type FirstExecRequest,
  fromWireError,
  type Health,
  type JourneyReply,
  type LogLevel,
  type LogLevelReply,
  type MountInfoReply,
  type MountRequest,
  type PrefetchCancelRequest,
  type PrefetchReply,
  type PrefetchRequest,
  type ProfileReply,
  SOCKET_NAME,
  type Stats,
  type UnmountReply,
  type UnmountRequest,
} from '../wire/index.js';
import type { Answer } from './exchange.js';
import type { ReadTrace } from './follow.js';

/** A server that is replaced is back in a fraction of a second; longer than this something else is wrong. */
const RETRY_FOR_MS = 10_000;
const PREFETCH_POLL_MS = 200;
/** Connections wait in the backlog of the socket while a server is replaced, for less than this. */
const LONG_REQUEST_MS = 2000;

/**
 * A clipd that answers nothing for this long hangs. Twice what its keeper gives a server that has fallen silent, which is then
 * replaced, so that a request mostly gets its answer from the next server.
 */
const SILENCE_MS = 30_000;

/** No clipd answers at this root. */
export class NotRunningError extends ClipError {
  constructor(root: string, cause?: unknown) {
    super('NOT_FOUND', `no clipd runs with root ${root}`, {
      cause,
      hint: 'clipctl mount and clipctl daemon start one; --root names another root',
    });
  }
}

/** The typed client of clipd's control API. */
export class ClipdClient {
  readonly root: string;
  readonly #socketPath: string;
  readonly #silenceMs: number;

  /** @param silenceMs how long clipd may be silent */
  constructor(root: string, silenceMs = SILENCE_MS) {
    this.root = root;
    this.#silenceMs = silenceMs;
    this.#socketPath = join(root, SOCKET_NAME);
  }

  /** False: there is no clipd. True: there is one, or was. */
  mayRun(): boolean {
    return existsSync(this.#socketPath);
  }

  health(): Promise<Health> {
    return this.#call('GET', API.health);
  }

  /** Repeated with the same requestId when the server is replaced meanwhile: it mounts once. */
  mount(body: MountRequest): Promise<MountInfoReply> {
    return this.#call('POST', API.mounts, body);
  }

  async unmount(body: UnmountRequest): Promise<UnmountReply> {
    return this.#call('POST', API.unmount, body, (error) =>
      // The first attempt did it, and its answer was lost with the server.
      error.code === 'NOT_FOUND' ? { mountPoint: body.mountPoint, closed: true } : undefined,
    );
  }

  async mounts(): Promise<readonly MountInfoReply[]> {
    return (await this.#call<{ mounts: MountInfoReply[] }>('GET', API.mounts)).mounts;
  }

  stats(): Promise<Stats> {
    return this.#call('GET', API.stats);
  }

  /** As `stats().metrics`, and nothing else. */
  async metrics(): Promise<readonly Metric[]> {
    return (await this.#call<{ metrics: Metric[] }>('GET', API.metrics)).metrics;
  }

  /** What the reads of a mount waited for, and what was fetched for them. */
  journey(mountPoint: string): Promise<JourneyReply> {
    return this.#call('GET', `${API.journey}?mountPoint=${encodeURIComponent(mountPoint)}`);
  }

  /** Of clipd's log, from now on; a server that takes over begins with the level that clipd was started with. */
  setLogLevel(level: LogLevel): Promise<LogLevelReply> {
    return this.#call('POST', API.logLevel, { level });
  }

  /** Lines of `GET /v1/trace` as they come: one server's, for as long as it serves the mount. */
  async followTrace(mountPoint: string, onLine: (line: unknown) => void): Promise<ReadTrace> {
    const { follow } = await import('./follow.js');
    const root = this.#openRoot();
    try {
      const path = `${API.trace}?mountPoint=${encodeURIComponent(mountPoint)}`;
      return await follow(root.socket(SOCKET_NAME), path, onLine, (text) => this.#errorOf(text));
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      throw code === 'ENOENT' || code === 'ECONNREFUSED' ? new NotRunningError(this.root, error) : error;
    } finally {
      root.close();
    }
  }

  #errorOf(text: string): Error {
    try {
      return fromWireError((JSON.parse(text) as ErrorReply).error);
    } catch (cause) {
      return new ClipError('BAD_FORMAT', `clipd at ${this.root} gave an answer that is not JSON`, { cause });
    }
  }

  /** Resolves when nothing is mounted there any more, or clipd has ended. */
  async waitUnmounted(mountPoint: string): Promise<void> {
    try {
      await this.#call('GET', `${API.wait}?mountPoint=${encodeURIComponent(mountPoint)}`);
    } catch (error) {
      if (!(error instanceof NotRunningError)) throw error;
    }
  }

  /** Says when a container's first process began, for `stats`. */
  noteFirstExec(body: FirstExecRequest): Promise<object> {
    return this.#call('POST', API.firstExec, body);
  }

  /** Ends the recording of first reads at this place, if it still runs, and gives the profile. */
  stopProfile(mountPoint: string): Promise<ProfileReply> {
    return this.#call('POST', API.profileStop, { mountPoint });
  }

  /** Begins to fetch spans that no reader has asked for yet. Repeated when the server is replaced meanwhile: it fetches nothing twice. */
  prefetch(body: PrefetchRequest): Promise<PrefetchReply> {
    return this.#call('POST', API.prefetch, body);
  }

  /** Those of one mount that run, and the last that have ended. */
  async prefetches(mountPoint: string): Promise<readonly PrefetchReply[]> {
    const path = `${API.prefetch}?mountPoint=${encodeURIComponent(mountPoint)}`;
    return (await this.#call<{ prefetches: PrefetchReply[] }>('GET', path)).prefetches;
  }

  /** @returns those that were running */
  async cancelPrefetch(body: PrefetchCancelRequest): Promise<readonly PrefetchReply[]> {
    return (await this.#call<{ prefetches: PrefetchReply[] }>('POST', API.prefetchCancel, body)).prefetches;
  }

  /**
   * Resolves when a prefetch has ended, however it did. One that was lost with its server begins anew.
   * @param options.signal calls it off
   * @throws AbortError by the signal
   */
  async waitPrefetched(
    request: PrefetchRequest,
    started: PrefetchReply,
    options: {
      onProgress?: ((state: PrefetchReply) => void) | undefined;
      signal?: AbortSignal | undefined;
    } = {},
  ): Promise<PrefetchReply> {
    const { onProgress = () => {}, signal } = options;
    let state = started;
    while (state.state === 'running') {
      onProgress(state);
      await new Promise((resolve) => setTimeout(resolve, PREFETCH_POLL_MS));
      if (signal?.aborted) {
        await this.cancelPrefetch({ mountPoint: request.mountPoint, id: state.id });
        throw new AbortError(`the prefetch of ${request.mountPoint}`, signal);
      }
      const { id } = state;
      const states = await this.prefetches(request.mountPoint);
      state = states.find((other) => other.id === id) ?? (await this.prefetch(request));
    }
    onProgress(state);
    return state;
  }

  cache(): Promise<CacheReply> {
    return this.#call('GET', API.cache);
  }

  async cachedLayers(): Promise<readonly CachedLayerReply[]> {
    return (await this.#call<{ layers: CachedLayerReply[] }>('GET', API.cacheLayers)).layers;
  }

  pruneCache(body: CachePruneRequest): Promise<CachePruneReply> {
    return this.#call('POST', API.cachePrune, body);
  }

  async verifyCache(
    options: { onProgress?: ((done: number, total: number) => void) | undefined } = {},
  ): Promise<CacheVerifyReply> {
    const { onProgress } = options;
    const verified: Promise<CacheVerifyReply> = this.#call('POST', API.cacheVerify, {});
    if (onProgress === undefined) return verified;
    const timer = setInterval(() => {
      void this.cache()
        .then(({ verifying }) => verifying !== null && onProgress(verifying.done, verifying.total))
        .catch(() => {}); // the other request says it
    }, PREFETCH_POLL_MS);
    return verified.finally(() => clearInterval(timer));
  }

  stop(onlyIfIdle: boolean): Promise<{ stopping: boolean }> {
    return this.#call('POST', API.stop, { onlyIfIdle });
  }

  upgrade(serverModule: string): Promise<{ version: string }> {
    return this.#call('POST', API.upgrade, { serverModule });
  }

  /** A request may carry a login: it goes only to a clipd that this user or root has started. */
  #openRoot(): OwnDirectory {
    try {
      return OwnDirectory.open(this.root, { orRoots: true });
    } catch (error) {
      if (error instanceof ClipError && error.code === 'NOT_FOUND') throw new NotRunningError(this.root, error);
      throw error;
    }
  }

  /** @throws ClipError SYSTEM when clipd has fallen silent; the socket's error */
  async #answered(method: string, path: string, body: unknown): Promise<Answer> {
    // Loaded while a clipd that had to be started boots: Node's HTTP takes a while.
    const { exchange } = await import('./exchange.js');
    const root = this.#openRoot();
    const silent = new AbortController();
    const begun = performance.now();
    const limit = this.#silenceMs;
    let timer: NodeJS.Timeout;
    let done = false;
    const arm = (): void => {
      if (!done) timer = setTimeout(() => void watch(), limit);
    };
    // An answer may take as long as it takes (a wait, a check of the whole cache) while clipd answers others.
    const watch = async (): Promise<void> => {
      const ping = AbortSignal.timeout(limit);
      try {
        if (path !== API.health) await exchange(root.socket(SOCKET_NAME), 'GET', API.health, undefined, ping);
        else silent.abort();
      } catch {
        if (ping.aborted) silent.abort(); // another error is the request's, too
      }
      arm();
    };
    arm();
    try {
      return await exchange(root.socket(SOCKET_NAME), method, path, body, silent.signal);
    } catch (cause) {
      if (!silent.signal.aborted) throw cause;
      const seconds = Math.round((performance.now() - begun) / 1000);
      const asked = `${method} ${path.split('?')[0]}`;
      throw new ClipError('SYSTEM', `clipd at ${this.root} does not answer: waited ${seconds} s for ${asked}`, {
        cause,
        hint: `its log is ${join(this.root, 'clipd.log')}; a clipd that hangs is ended by kill -9 of its keeper (pgrep -f 'clipd keeper')`,
      });
    } finally {
      done = true;
      clearTimeout(timer!);
      root.close();
    }
  }

  /** @param afterRetry what an error of a repeated request means, if it is none */
  async #call<T>(
    method: string,
    path: string,
    body?: unknown,
    afterRetry: (error: ClipError) => T | undefined = () => undefined,
  ): Promise<T> {
    let end = 0;
    for (let attempt = 0; ; attempt++) {
      const begun = performance.now();
      try {
        return await this.#once<T>(method, path, body);
      } catch (error) {
        if (error instanceof ClipError) {
          const meant = attempt > 0 ? afterRetry(error) : undefined;
          if (meant !== undefined) return meant;
          throw error;
        }
        const code = (error as NodeJS.ErrnoException).code ?? '';
        if (code === 'ENOENT' || code === 'ECONNREFUSED') throw new NotRunningError(this.root, error);
        if (code === 'EACCES') {
          throw new ClipError('PERMISSION', `${this.#socketPath}: permission denied`, {
            cause: error,
            hint: 'only the user that runs clipd (and root) may use it; --root names another',
          });
        }
        // The server died or was replaced with our request in its hands: the socket stays, the next one takes it. A request
        // that ran for a while found a server: then it is tried for as long as at first.
        if (attempt === 0 || performance.now() - begun > LONG_REQUEST_MS) end = performance.now() + RETRY_FOR_MS;
        if (performance.now() > end) {
          throw new ClipError('SYSTEM', `clipd at ${this.root} does not answer: ${code || String(error)}`, {
            cause: error,
            hint: `its log is ${join(this.root, 'clipd.log')}`,
          });
        }
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    }
  }

  async #once<T>(method: string, path: string, body: unknown): Promise<T> {
    const { status, text } = await this.#answered(method, path, body);
    let value: T | ErrorReply;
    try {
      value = JSON.parse(text) as T | ErrorReply;
    } catch (cause) {
      throw new ClipError('BAD_FORMAT', `clipd at ${this.root} gave an answer that is not JSON`, { cause });
    }
    if (status === 200) return value as T;
    throw fromWireError((value as ErrorReply).error);
  }
}
