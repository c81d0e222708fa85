import { ClipError } from '../bytes/index.js';
import { type ClientOptions, type DirectRequest, type GetOptions, RegistryClient } from './client.js';
import { type Capability, hostName, type RegistryHost } from './hosts.js';
import { Backoff, DEFAULT_RETRY, type RetryPolicy } from './retry.js';
import type { OnOrigin, SourceCounters } from './source.js';
import type { Response } from './transport.js';

/** A host that failed is asked last for this long: its readers would wait for its timeouts time and again. */
const AVOID_MS = 30_000;

interface Entry {
  readonly host: RegistryHost;
  readonly client: RegistryClient;
  readonly origin: 'registry' | 'mirror';
  avoidUntil: number;
}

/** With the place that it is asked of. */
interface PlacedRequest extends DirectRequest {
  readonly onOrigin?: OnOrigin | undefined;
}

/** A response, and a way to say that its host failed while it was read. */
export interface Attempt {
  readonly response: Response;
  readonly origin: 'registry' | 'mirror';
  failed(): void;
}

/**
 * The hosts of a registry: mirrors in their order, and the registry itself last. What one host does not have or cannot give is
 * asked of the next; the last one's error is the one that is reported.
 */
export class RegistryHosts {
  readonly counters: SourceCounters;
  readonly #entries: readonly Entry[];
  readonly #policy: RetryPolicy;
  /** Bytes of a blob have come. */
  #served = false;

  constructor(
    hosts: readonly RegistryHost[],
    registry: string,
    repository: string,
    options: ClientOptions,
    counters: SourceCounters,
  ) {
    this.counters = counters;
    this.#policy = { ...DEFAULT_RETRY, ...options.retry };
    this.#entries = hosts.map((host, i) => ({
      host,
      client: new RegistryClient(host, registry, repository, options, counters),
      origin: i === hosts.length - 1 ? 'registry' : 'mirror',
      avoidUntil: 0,
    }));
  }

  backoff(): Backoff {
    const onRetry = (): void => {
      this.counters.retries++;
    };
    return new Backoff(this.#policy, onRetry, () => this.#served);
  }

  /**
   * One try, at each host that can do it until one succeeds.
   * @param skip hosts to leave out at first, because what they gave was wrong
   * @throws TransientError when another try may help
   */
  async attempt(capability: Capability, path: string, options: GetOptions, skip = 0): Promise<Attempt> {
    const entries = this.#order(capability, skip);
    for (const [i, entry] of entries.entries()) {
      const failed = (): void => {
        if (entries.length > 1) entry.avoidUntil = performance.now() + AVOID_MS;
      };
      try {
        const response = await entry.client.attempt(path, options);
        this.#served ||= path.includes('/blobs/');
        return { response, origin: entry.origin, failed };
      } catch (error) {
        // That it does not have something says nothing of the next request.
        if (!(error instanceof ClipError && error.code === 'NOT_FOUND')) failed();
        if (options.signal?.aborted || i === entries.length - 1) throw error;
      }
    }
    throw new ClipError('UNSUPPORTED', `no host of the registry is for "${capability}"`, {
      hint: 'look at the capabilities in its hosts.toml',
    });
  }

  /** See RegistryClient.getDirect. Of the first host alone: the caller goes on with {@link attempt}. */
  async getDirect(path: string, request: PlacedRequest, skip = 0): Promise<number> {
    const entries = this.#order('pull', skip);
    const [first] = entries;
    if (first === undefined) return 0;
    request.onOrigin?.(first.origin);
    try {
      const received = await first.client.getDirect(path, request);
      this.#served ||= received > 0;
      return received;
    } catch (error) {
      // Others may be reached; with one host alone this is the answer.
      if (request.signal?.aborted || entries.length === 1) throw error;
      first.avoidUntil = performance.now() + AVOID_MS;
      return 0;
    }
  }

  /** See RegistryClient.takesParts: of the host that is asked first. */
  takesParts(path: string): boolean {
    return this.#order('pull', 0)[0]?.client.takesParts(path) === true;
  }

  noteFruitless(path: string): void {
    this.#order('pull', 0)[0]?.client.noteFruitless(path);
  }

  /** See RegistryClient.connect: to the host that is asked first. */
  async connect(count: number): Promise<void> {
    await this.#order('pull', 0)[0]?.client.connect(count);
  }

  /** For errors: the host that would be asked. */
  name(registry: string): string {
    return hostName(this.#entries.at(-1)!.host, registry);
  }

  #order(capability: Capability, skip: number): Entry[] {
    const able = this.#entries.filter(({ host }) => host.capabilities.includes(capability));
    if (able.length < 2) return able;
    const now = performance.now();
    const turn = skip % able.length;
    const rotated = [...able.slice(turn), ...able.slice(0, turn)];
    const good = rotated.filter((entry) => entry.avoidUntil <= now);
    return [...good, ...rotated.filter((entry) => entry.avoidUntil > now)];
  }

  async close(): Promise<void> {
    await Promise.all(this.#entries.map(({ client }) => client.close()));
  }
}
