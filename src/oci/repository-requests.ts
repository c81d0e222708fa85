import { ClipError } from '../bytes/index.js';
import type { GetOptions } from './client.js';
import { TransientError } from './errors.js';
import type { Attempt, RegistryHosts } from './registry-hosts.js';

/** Requests to a repository that are not for ranges of its layers: each as a whole, and tried again when it breaks. */
export class RepositoryRequests {
  readonly hosts: RegistryHosts;
  readonly repository: string;

  constructor(hosts: RegistryHosts, repository: string) {
    this.hosts = hosts;
    this.repository = repository;
  }

  /** One try. @throws TransientError when another one may help */
  async send(path: string, options: GetOptions): Promise<Attempt['response']> {
    return (await this.hosts.attempt('push', path, options)).response;
  }

  /** A request that may be sent twice. */
  async ask(path: string, options: GetOptions): Promise<Attempt['response']> {
    const backoff = this.hosts.backoff();
    for (;;) {
      try {
        return await this.send(path, options);
      } catch (error) {
        await backoff.next(error, options.what, options.signal);
      }
    }
  }

  /** null: 404. Retried as it breaks. */
  async body(
    capability: 'pull' | 'resolve',
    path: string,
    options: GetOptions,
    limit: number,
    watch: {
      readonly onHead?: (attempt: Attempt) => void;
      readonly onBytes?: ((length: number) => void) | undefined;
    } = {},
  ): Promise<Uint8Array | null> {
    const backoff = this.hosts.backoff();
    for (;;) {
      try {
        const attempt = await this.hosts.attempt(capability, path, options);
        watch.onHead?.(attempt);
        const bytes = await attempt.response.body.collect(limit, watch.onBytes).catch((error: unknown) => {
          throw new TransientError(`${options.what} ended early`, { cause: error });
        });
        if (bytes === null) throw new ClipError('LIMIT', `${options.what} is longer than ${limit} bytes`);
        this.hosts.counters.bytes += bytes.length;
        return bytes;
      } catch (error) {
        if (error instanceof ClipError && error.code === 'NOT_FOUND') return null;
        await backoff.next(error, options.what, options.signal);
      }
    }
  }
}
