import { connect as connectTcp, type Socket } from 'node:net';
import { type ConnectionOptions, connect as connectTls, type SecureContext } from 'node:tls';
import { checkLiteral, guardedLookup, type Reach } from './addresses.js';
import { secureContextFor, type TrustOptions } from './tls-trust.js';

/** A host that does not answer a SYN for this long is given up. */
export const CONNECT_TIMEOUT_MS = 10_000;

/** The buffers that a socket reads into (net.connect's `onread`). */
export interface OnRead {
  readonly buffer: () => Uint8Array;
  /** False: stop reading until the socket is resumed. */
  readonly callback: (length: number) => boolean;
}

/** "host" of a URL as connect and certificates want it: IPv6 addresses without brackets. */
export function bareHost(url: URL): string {
  return url.hostname.replace(/^\[|\]$/g, '');
}

export function portOf(url: URL): number {
  return Number(url.port || (url.protocol === 'https:' ? 443 : 80));
}

/** Opens sockets to origins: name resolution with its rule, TLS with its certificates, resumed sessions. */
export class Network {
  readonly #trust: TrustOptions;
  readonly #contexts = new Map<string, SecureContext>();
  /** The last TLS session of each origin, to resume. */
  readonly #sessions = new Map<string, Buffer>();

  constructor(trust: TrustOptions) {
    this.#trust = trust;
  }

  /**
   * @param reach how local the address may be
   * @throws ForbiddenAddress; ClipError for a certificate that cannot be used. Everything else is an event of the socket.
   */
  connect(url: URL, reach: Reach, onread?: OnRead): Socket {
    const host = bareHost(url);
    checkLiteral(host, reach);
    const target = {
      host,
      port: portOf(url),
      noDelay: true,
      ...(reach !== null && { lookup: guardedLookup(reach) }),
      ...(onread !== undefined && { onread }),
    };
    return url.protocol === 'https:' ? this.secure(url, target) : connectTcp(target);
  }

  /** TLS to an origin, over a socket that `target` names or holds. */
  secure(url: URL, target: ConnectionOptions): Socket {
    const host = bareHost(url);
    const session = this.#sessions.get(url.origin);
    const isName = /[a-z]/i.test(host) && !host.includes(':');
    const socket = connectTls({
      ...target,
      ...(isName && { servername: host }),
      secureContext: this.#secureContext(host, portOf(url)),
      ...(this.#trust.skipVerify === true && { rejectUnauthorized: false }),
      ALPNProtocols: ['http/1.1'],
      ...(session !== undefined && { session }),
    });
    socket.on('session', (ticket) => this.#sessions.set(url.origin, ticket));
    return socket;
  }

  /** Made once per host: see secureContextFor. */
  #secureContext(host: string, port: number): SecureContext {
    const key = `${host}:${port}`;
    let context = this.#contexts.get(key);
    if (context === undefined) {
      context = secureContextFor(host, port, this.#trust);
      this.#contexts.set(key, context);
    }
    return context;
  }
}

/** The event that says that a connection can be used. */
export function readyEvent(url: URL): 'connect' | 'secureConnect' {
  return url.protocol === 'https:' ? 'secureConnect' : 'connect';
}
