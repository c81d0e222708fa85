import { ClipError } from '../bytes/index.js';
import type { Reach } from './addresses.js';
import { Authenticator } from './auth.js';
import type { BlobRange } from './byte-ranges.js';
import type { Credentials, RegistryCredentialProvider } from './credentials.js';
import { DirectConnections } from './direct-get.js';
import { aborted, networkError, readErrorBody, statusError, TransientError } from './errors.js';
import { hostName, type RegistryHost } from './hosts.js';
import { isLoopback, speaksTls } from './probe.js';
import { proxyFor } from './proxy.js';
import { raceAbort } from './race-abort.js';
import { apiHost } from './reference.js';
import type { RetryPolicy } from './retry.js';
import { answersSeveralRanges, noteFruitless, noteRedirect, noteSeveralRanges } from './several-ranges.js';
import type { BlobTarget, SourceCounters } from './source.js';
import {
  DEFAULT_CONNECTIONS,
  HEAD_TIMEOUT_MS,
  KEEP_ALIVE_MS,
  type Request,
  type Response,
  STALL_BYTES,
  STALL_MS,
  Transport,
  type TransportOptions,
} from './transport.js';
import { countWrongAnswer } from './wrong-answers.js';

/** Registries send a blob's request on once, to their storage; a CDN may do it again. */
const MAX_REDIRECTS = 5;
/** After this number of odd answers the server is taken to have no ranges as direct-get.ts needs them. One alone may be a proxy's hiccup. */
const MAX_MISFITS = 3;

export interface ClientOptions extends TransportOptions {
  readonly credentials: Credentials | RegistryCredentialProvider | null;
  readonly plainHttp: boolean;
  /** Redirects may lead from the internet into private networks (docs/security.md, "Registries"). */
  readonly allowPrivateRedirects?: boolean | undefined;
  readonly retry?: Partial<RetryPolicy> | undefined;
  /** Ask for tokens that allow pushing, too. */
  readonly push?: boolean | undefined;
  /** And that allow to take blobs over from this repository. */
  readonly mountFrom?: string | undefined;
  /** The registry's mirrors and itself, as found in another process. */
  readonly hosts?: readonly RegistryHost[] | undefined;
  /** Without `hosts`: where containerd's host configuration is. */
  readonly hostsDirectory?: string | undefined;
}

export interface GetOptions {
  /** Default GET. */
  readonly method?: Request['method'];
  readonly body?: Uint8Array;
  /** Told of the bytes of the body that the connection has taken. */
  readonly onSent?: ((bytes: number) => void) | undefined;
  /** Names the thing asked for, in errors. */
  readonly what: string;
  readonly headers: Readonly<Record<string, string>>;
  /** Statuses to hand back; any other is thrown. */
  readonly accept: readonly number[];
  /** Error codes of the registry after which the same request may succeed. */
  readonly passing?: readonly string[];
  readonly signal?: AbortSignal | undefined;
  /** Remember where this path redirects to, and go there at once the next time. */
  readonly rememberRedirect?: boolean;
}

/** Bytes of a blob for a target, by RegistryClient.getDirect. */
export interface DirectRequest {
  /** At least one, none of them empty. */
  readonly ranges: readonly BlobRange[];
  /** Of the blob. */
  readonly size: number;
  readonly target: BlobTarget;
  readonly signal?: AbortSignal | undefined;
  readonly onHost?: ((host: string) => void) | undefined;
  readonly onSent?: (() => void) | undefined;
}

/** Where to send a request, and how local the address behind the name may be. */
interface Place {
  readonly url: URL;
  readonly reach: Reach;
}

/** Requests to one repository at one host: scheme, login, redirects. */
export class RegistryClient {
  /** As logins and errors name it. */
  readonly registry: string;
  readonly counters: SourceCounters;
  readonly #host: RegistryHost;
  readonly #transport: Transport;
  readonly #auth: Authenticator;
  readonly #options: ClientOptions;
  /** Where a blob's path was redirected to, until that fails. */
  readonly #redirected = new Map<string, Place>();
  #base: URL | null = null;
  #probe: Promise<boolean> | null = null;
  readonly #direct: DirectConnections;
  /** Successes in a row that were not the range that was asked for. */
  #misfits = 0;
  /** What the registry's last answer may lead to. */
  #locality: Reach = 'public';
  /** A server has answered. */
  #reached = false;

  constructor(
    host: RegistryHost,
    registry: string,
    repository: string,
    options: ClientOptions,
    counters: SourceCounters,
  ) {
    this.registry = hostName(host, registry);
    this.counters = counters;
    this.#host = host;
    this.#options = options;
    this.#transport = new Transport({
      ...options,
      ca: [options.ca ?? '', host.ca].join('\n'),
      client: host.client,
      skipVerify: host.skipVerify,
    });
    this.#direct = new DirectConnections(this.#transport.network, {
      connections: options.connections ?? DEFAULT_CONNECTIONS,
      headMs: options.idleTimeoutMs ?? HEAD_TIMEOUT_MS,
      stallMs: options.idleTimeoutMs ?? STALL_MS,
      stallBytes: STALL_BYTES,
      keepAliveMs: KEEP_ALIVE_MS,
    });
    // A login that was given for the registry is not for its mirrors; a provider is asked for each host.
    const { credentials } = options;
    const own = host.base === null || (credentials !== null && 'getCredentials' in credentials);
    this.#auth = new Authenticator(
      this.#transport,
      this.registry,
      repository,
      host.credentials ?? (own ? credentials : null),
      () => counters.tokens++,
      options.push === true ? 'pull,push' : 'pull',
      options.mountFrom,
    );
  }

  /** "https://host/v2/". HTTP if forced, or if this is a loopback address where nothing speaks TLS. */
  async base(signal?: AbortSignal): Promise<URL> {
    if (this.#base !== null) return this.#base;
    if (this.#host.base !== null) {
      this.#base = new URL(this.#host.base);
      return this.#base;
    }
    const host = apiHost(this.registry);
    const https = new URL(`https://${host}/v2/`);
    const http = new URL(`http://${host}/v2/`);
    let base = https;
    if (this.#options.plainHttp) base = http;
    else if (isLoopback(https.hostname)) {
      const hostname = https.hostname.replace(/^\[|\]$/g, '');
      // One probe for all callers, whichever of them gives up meanwhile.
      this.#probe ??= speaksTls(hostname, Number(https.port || 443)).finally(() => {
        this.#probe = null;
      });
      try {
        if (!(await raceAbort(this.#probe, signal))) base = http;
      } catch (error) {
        if (signal?.aborted) throw aborted(`connecting to ${host}`, signal.reason);
        throw networkError(https, error, this.#reached);
      }
    }
    this.#base = base;
    return base;
  }

  /** @param path below the API's base, or an absolute URL */
  #url(path: string, base: URL): URL {
    const url = new URL(path, base);
    const { namespace } = this.#host;
    if (namespace !== null) url.searchParams.set('ns', namespace);
    return url;
  }

  /** What goes with every request to this host, and to no other. */
  async #ownHeaders(signal?: AbortSignal): Promise<Record<string, string>> {
    const authorization = await this.#auth.authorization(signal);
    return authorization === null ? { ...this.#host.headers } : { ...this.#host.headers, authorization };
  }

  /** Opens connections for getDirect. Nothing is asked for. @throws ClipError */
  async connect(count: number): Promise<void> {
    const url = await this.base();
    if (proxyFor(url, this.#options.proxy ?? {}) === null) this.#direct.open(url, null, count);
  }

  /** Whether a blob may be asked for by several ranges in one request, as far as is known of the host that has it. */
  takesParts(path: string): boolean {
    if (this.#misfits >= MAX_MISFITS) return false;
    const url = this.#place(path);
    return proxyFor(url, this.#options.proxy ?? {}) === null && answersSeveralRanges(url.host);
  }

  /** A blob was asked for by several ranges, and did not come, twice; one of the ranges came alone. */
  noteFruitless(path: string): void {
    noteFruitless(this.#place(path).host);
  }

  /** Of a blob, as far as it is known. */
  #place(path: string): URL {
    return this.#redirected.get(path)?.url ?? this.#base ?? new URL(`https://${apiHost(this.registry)}/v2/`);
  }

  /**
   * Has `target` take ranges of a blob, one after the other, as far as that goes without logins, redirects and retries.
   * @returns how many bytes came: the caller goes on from there.
   * @throws ClipError ABORTED, or that nothing can be reached; what the target rejects with
   */
  async getDirect(path: string, request: DirectRequest): Promise<number> {
    const { ranges, size, signal } = request;
    const length = ranges.reduce((sum, range) => sum + range.length, 0);
    const several = ranges.length > 1;
    const whole = !several && ranges[0]!.start === 0 && length === size;
    if (length === 0 || (!whole && this.#misfits >= MAX_MISFITS)) return 0;
    const base = await this.base(signal);
    const redirected = this.#redirected.get(path);
    const { url, reach } = redirected ?? { url: this.#url(path, base), reach: null };
    if (proxyFor(url, this.#options.proxy ?? {}) !== null) return 0;
    const headers = redirected === undefined ? await this.#ownHeaders(signal) : {};
    this.counters.requests++;
    request.onHost?.(url.host);
    const { received, fit, wrong, refusal } = await this.#direct.get({ ...request, url, reach, headers });
    if (wrong !== null) countWrongAnswer(url.host, wrong);
    this.counters.bytes += received;
    if (signal?.aborted) throw aborted(path, signal.reason);
    if (received > 0) this.#reached = true;
    if (received > 0 && received < length) this.counters.retries++;
    if (several) noteSeveralRanges(url.host, received, refusal);
    else if (!whole) this.#misfits = fit ? 0 : this.#misfits + 1;
    return received;
  }

  /** GET, with everything that a registry asks of a client. @throws TransientError when another try may help */
  async attempt(path: string, options: GetOptions): Promise<Response> {
    try {
      return await this.#attempt(path, options);
    } catch (error) {
      if (options.signal?.aborted) throw aborted(options.what, options.signal.reason);
      throw error;
    }
  }

  async #attempt(path: string, options: GetOptions): Promise<Response> {
    const { accept, signal, what } = options;
    const remembered = this.#redirected.get(path);
    if (remembered !== undefined) {
      const response = await this.#send(remembered, options.headers, signal);
      if (accept.includes(response.status)) return response;
      // Most likely a signed URL that has expired: the registry gives a new one.
      this.#redirected.delete(path);
      if (response.status >= 500 || response.status === 429) throw await this.#failure(response, what, false);
      response.body.cancel();
    }

    const base = await this.base(signal);
    let url = this.#url(path, base);
    // The place of an upload is an absolute URL that the registry gave: like a redirect it leads to no closer address.
    let reach: Reach = url.origin === base.origin ? null : this.#locality;
    let challenges = 0;
    for (let redirects = 0; ; ) {
      // The login is for the registry, and never for a host that it redirects to.
      const own: Record<string, string> = url.origin === base.origin ? await this.#ownHeaders(signal) : {};
      const authorization = own.authorization ?? null;
      const response = await this.#send({ url, reach }, { ...options.headers, ...own }, signal, options);
      const { status } = response;
      if (url.origin === base.origin) this.#locality = this.#reachOf(response);
      if (accept.includes(status)) {
        if (redirects > 0 && options.rememberRedirect) {
          this.#redirected.set(path, { url, reach });
          noteRedirect(base.host, url.host);
        }
        return response;
      }
      // Twice: a token may be refused because it ended on the way.
      if (status === 401 && url.origin === base.origin && challenges < 2) {
        challenges++;
        const better = await this.#auth.challenged(response, this.#reachOf(response), authorization, signal);
        if (better) {
          response.body.cancel();
          continue;
        }
      }
      const location = response.headers.location;
      if ([301, 302, 303, 307, 308].includes(status) && location !== undefined && options.body === undefined) {
        if (++redirects > MAX_REDIRECTS) {
          response.body.cancel();
          throw new ClipError('NETWORK', `${what}: more than ${MAX_REDIRECTS} redirects, the last to ${url.host}`);
        }
        this.counters.redirects++;
        await response.body.collect(64 * 1024).catch(() => null); // so that the connection lives on
        url = this.#target(location, url, what);
        reach = this.#reachOf(response);
        continue;
      }
      throw await this.#failure(response, what, authorization !== null, options.passing);
    }
  }

  #target(location: string, from: URL, what: string): URL {
    let url: URL;
    try {
      url = new URL(location, from);
    } catch {
      throw new ClipError('NETWORK', `${from.host} redirects ${what} to something that is not a URL`);
    }
    // HTTPS to HTTP is allowed, as in Docker: what comes is checked by digest, and no login goes along.
    if (url.protocol !== 'https:' && url.protocol !== 'http:') {
      throw new ClipError('NETWORK', `${from.host} redirects ${what} to a ${url.protocol} URL`);
    }
    return url;
  }

  /** A registry in a private network may redirect into it; a public one only if the user allows it. */
  #reachOf({ locality }: Response): Reach {
    return locality === 'public' && this.#options.allowPrivateRedirects === true ? 'private' : locality;
  }

  async #send(
    { url, reach }: Place,
    headers: Readonly<Record<string, string>>,
    signal?: AbortSignal,
    { method = 'GET', body, onSent }: Pick<GetOptions, 'method' | 'body' | 'onSent'> = {},
  ): Promise<Response> {
    this.counters.requests++;
    try {
      const response = await this.#transport.send(url, {
        method,
        headers,
        signal,
        reach,
        ...(body && { body, onSent }),
      });
      this.#reached = true;
      return response;
    } catch (error) {
      throw networkError(url, error, this.#reached);
    }
  }

  async #failure(
    response: Response,
    what: string,
    loggedIn: boolean,
    passing: readonly string[] = [],
  ): Promise<ClipError> {
    const said = await readErrorBody(response, this.#base?.hostname);
    if (response.status === 404 && said.code === '' && !(await this.#isRegistry(response))) {
      return new ClipError('NOT_FOUND', `${response.url.origin} answers, but not as a container registry`, {
        hint: `check the host and port: ${response.url.origin}/v2/ should answer 200 or 401`,
      });
    }
    const error = statusError(response, what, said, this.registry, loggedIn);
    return passing.includes(said.code) ? new TransientError(error.message, { hint: error.hint, cause: error }) : error;
  }

  /** distribution-spec, "Determining Support": /v2/ answers 200, or a challenge. */
  async #isRegistry(failed: Response): Promise<boolean> {
    if (failed.headers['docker-distribution-api-version'] !== undefined) return true;
    try {
      const response = await this.#send({ url: new URL('/v2/', failed.url), reach: failed.locality }, {});
      response.body.cancel();
      return response.status === 200 || (response.status === 401 && response.headers['www-authenticate'] !== undefined);
    } catch {
      return false;
    }
  }

  async close(): Promise<void> {
    this.#direct.close();
    await this.#transport.close();
  }
}
