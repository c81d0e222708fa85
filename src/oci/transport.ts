import { createRequire } from 'node:module';
import type { SecureContext } from 'node:tls';
import type { Agent as AgentType, Dispatcher, ProxyAgent as ProxyAgentType } from 'undici';
import { ClipError } from '../bytes/index.js';
import { Body, type Flow } from './body.js';
import { type ProxySettings, proxyFor } from './proxy.js';
import { secureContextFor, type TrustOptions } from './tls-trust.js';

/** Connections kept to one origin: one for each request that lazy/ has under way, or a reader's would wait for a connection. */
export const DEFAULT_CONNECTIONS = 32;
const CONNECT_TIMEOUT_MS = 10_000;
/** No header for this long, or no byte of a body: the connection is given up and the request tried again. */
export const IDLE_TIMEOUT_MS = 30_000;
/** A mount is quiet for minutes between reads; registries and their load balancers close at 60 s or later. */
export const KEEP_ALIVE_MS = 55_000;

export interface TransportOptions extends TrustOptions {
  readonly connections?: number | undefined;
  readonly proxy?: ProxySettings | undefined;
  /** Overrides the idle timeout. */
  readonly idleTimeoutMs?: number | undefined;
}

export interface Request {
  readonly method?: 'GET' | 'HEAD' | 'POST';
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly signal?: AbortSignal | undefined;
}

export interface Response {
  readonly url: URL;
  readonly status: number;
  /** Lower-case names; repeated ones joined by ", ". */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Body;
}

type Undici = Pick<typeof import('undici'), 'Agent' | 'buildConnector'>;
let loading: Promise<Undici> | undefined;

/**
 * The parts of undici that every request needs. Its index.js also loads fetch, caches and WebSockets, before the first request can
 * leave (docs/benchmarks.md, "Why these constants"). If a release moves these files, all of it is loaded.
 */
async function loadUndici(): Promise<Undici> {
  const require = createRequire(import.meta.url);
  try {
    return {
      Agent: require('undici/lib/dispatcher/agent.js') as Undici['Agent'],
      buildConnector: require('undici/lib/core/connect.js') as Undici['buildConnector'],
    };
  } catch {
    return import('undici');
  }
}

/** Loads the client ahead of the first request that needs it. */
export async function preloadTransport(): Promise<void> {
  await agents();
}

function agents(): Promise<Undici> {
  loading ??= loadUndici();
  return loading;
}

function joinHeaders(headers: Record<string, string | string[] | undefined>): Record<string, string> {
  const joined: Record<string, string> = {};
  for (const [name, value] of Object.entries(headers)) {
    if (value !== undefined) joined[name] = Array.isArray(value) ? value.join(', ') : value;
  }
  return joined;
}

/** HTTP/1.1 with kept-alive connections. No policy: it neither retries, nor follows, nor authenticates. */
export class Transport {
  readonly #options: TransportOptions;
  #direct: AgentType | null = null;
  readonly #proxied = new Map<string, ProxyAgentType>();
  readonly #contexts = new Map<string, SecureContext>();
  #closed = false;

  constructor(options: TransportOptions) {
    this.#options = options;
  }

  #agentOptions(): { connections: number; keepAliveTimeout: number; headersTimeout: number; bodyTimeout: number } {
    const idle = this.#options.idleTimeoutMs ?? IDLE_TIMEOUT_MS;
    return {
      connections: this.#options.connections ?? DEFAULT_CONNECTIONS,
      keepAliveTimeout: KEEP_ALIVE_MS,
      headersTimeout: idle,
      bodyTimeout: idle,
    };
  }

  async #dispatcher(url: URL): Promise<Dispatcher> {
    const proxy = proxyFor(url, this.#options.proxy ?? {});
    if (proxy !== null) {
      // Of all of undici: ProxyAgent uses methods that only index.js adds to the classes it builds on.
      const whole = await import('undici');
      this.#checkOpen(url);
      return this.#proxyAgent(whole, url, proxy);
    }
    const undici = await agents();
    this.#checkOpen(url);
    if (this.#direct !== null) return this.#direct;
    const plain = undici.buildConnector({ timeout: CONNECT_TIMEOUT_MS });
    const byHost = new Map<string, ReturnType<Undici['buildConnector']>>();
    this.#direct = new undici.Agent({
      ...this.#agentOptions(),
      connect: (target, callback) => {
        if (target.protocol !== 'https:') return plain(target, callback);
        const port = Number(target.port || 443);
        const key = `${target.hostname}:${port}`;
        let connector = byHost.get(key);
        if (connector === undefined) {
          try {
            const secureContext = this.secureContext(target.hostname, port);
            connector = undici.buildConnector({ timeout: CONNECT_TIMEOUT_MS, secureContext });
          } catch (error) {
            return callback(error as Error, null);
          }
          byHost.set(key, connector);
        }
        return connector(target, callback);
      },
    });
    return this.#direct;
  }

  /** Made once per host: see secureContextFor. @throws ClipError for a certificate that cannot be used */
  secureContext(host: string, port: number): SecureContext {
    const key = `${host}:${port}`;
    let context = this.#contexts.get(key);
    if (context === undefined) {
      context = secureContextFor(host, port, this.#options);
      this.#contexts.set(key, context);
    }
    return context;
  }

  #checkOpen(url: URL): void {
    if (this.#closed) throw new ClipError('ABORTED', `the connection to ${url.host} is closed`);
  }

  /** One for each pair of proxy and target: certs.d may say other things for each target. */
  #proxyAgent(undici: typeof import('undici'), url: URL, proxy: string): ProxyAgentType {
    const key = `${proxy} ${url.origin}`;
    let agent = this.#proxied.get(key);
    if (agent !== undefined) return agent;
    const tls = (host: string, port: string): { secureContext: SecureContext; timeout: number } => ({
      secureContext: this.secureContext(host, Number(port || 443)),
      timeout: CONNECT_TIMEOUT_MS,
    });
    const at = new URL(proxy);
    agent = new undici.ProxyAgent({
      ...this.#agentOptions(),
      uri: proxy,
      // A plain-HTTP target is asked of the proxy by its absolute URL (RFC 9112 §3.2.2); many proxies CONNECT only to 443.
      proxyTunnel: false,
      ...(at.protocol === 'https:' && { proxyTls: tls(at.hostname, at.port) }),
      ...(url.protocol === 'https:' && { requestTls: tls(url.hostname, url.port) }),
    });
    this.#proxied.set(key, agent);
    return agent;
  }

  /** Resolves with the response's head; its body follows. Rejects with undici's or the socket's error. */
  async send(url: URL, request: Request): Promise<Response> {
    const dispatcher = await this.#dispatcher(url);
    const { signal } = request;
    signal?.throwIfAborted();
    return new Promise((resolve, reject) => {
      let body: Body | null = null;
      let onAbort: (() => void) | null = null;
      const settle = (error: Error | null): void => {
        if (onAbort !== null) signal?.removeEventListener('abort', onAbort);
        if (body !== null) body.end(error);
        else if (error !== null) reject(error);
      };
      dispatcher.dispatch(
        {
          origin: url.origin,
          path: url.pathname + url.search,
          method: request.method ?? 'GET',
          headers: { ...request.headers },
          ...(request.body !== undefined && { body: request.body }),
        },
        {
          onRequestStart(controller) {
            if (signal === undefined) return;
            if (onAbort !== null) signal.removeEventListener('abort', onAbort);
            onAbort = () => controller.abort(signal.reason as Error);
            if (signal.aborted) onAbort();
            else signal.addEventListener('abort', onAbort, { once: true });
          },
          onResponseStart(controller, status, headers) {
            if (status < 200) return; // 100 Continue, 103 Early Hints: the response is yet to come
            const flow: Flow = {
              pause: () => controller.pause(),
              resume: () => controller.resume(),
              abort: (reason) => controller.abort(reason),
            };
            body = new Body(flow);
            resolve({ url, status, headers: joinHeaders(headers), body });
          },
          onResponseData(_controller, chunk) {
            body?.push(chunk);
          },
          onResponseEnd() {
            settle(null);
          },
          onResponseError(_controller, error) {
            settle(error);
          },
        },
      );
    });
  }

  /** Ends what is under way, and closes every connection. */
  async close(): Promise<void> {
    this.#closed = true;
    const agents = [this.#direct, ...this.#proxied.values()];
    this.#proxied.clear();
    this.#direct = null;
    await Promise.all(agents.map((agent) => agent?.destroy()));
  }
}
