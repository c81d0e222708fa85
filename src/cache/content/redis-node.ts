import type { RedisClientType } from '@redis/client';

/** How a server is reached: the same for all nodes of a cluster, but for where they are. */
export interface RedisAccess {
  readonly tls: boolean;
  readonly username?: string;
  readonly password?: string;
  readonly database?: number;
}

export interface RedisAddress {
  readonly host: string;
  readonly port: number;
}

export type RedisArguments = readonly (string | Buffer)[];

/** What a server answers to the commands used here; strings of bytes come as Buffers. */
export type RedisReply = Buffer | string | number | null | readonly RedisReply[];

const CONNECT_TIMEOUT_MS = 1000;
/** The client's own back-off goes to 2 s and more; the breaker in front already keeps readers from waiting. */
const MAX_RECONNECT_MS = 1000;
/** A peer that vanished without a word is noticed by pings that go unanswered for this long. */
const PING_MS = 5000;
const SILENCE_MS = 12_000;

/**
 * One server. It connects at once and for ever again; while it is not connected, commands fail immediately instead of
 * queueing up behind a server that may never come.
 */
export class RedisNode {
  readonly #client: Promise<RedisClientType>;
  /** Settles with the first attempt to connect: until then nobody can say that the server is away. */
  readonly #attempted: Promise<void>;
  #closed = false;
  /** Why there is no connection, as far as the client says: a certificate that nobody trusts, say. */
  #trouble: Error | null = null;

  constructor(
    readonly address: RedisAddress,
    access: RedisAccess,
  ) {
    let settle: () => void = () => {};
    this.#attempted = new Promise((resolve) => {
      settle = resolve;
    });
    this.#client = this.#open(access, settle);
    this.#client.catch(settle);
  }

  async #open(access: RedisAccess, settle: () => void): Promise<RedisClientType> {
    const { createClient, RESP_TYPES } = await import('@redis/client');
    const { tls, username, password, database } = access;
    const { host, port } = this.address;
    const socket = {
      host,
      port,
      connectTimeout: CONNECT_TIMEOUT_MS,
      socketTimeout: SILENCE_MS,
      noDelay: true,
      reconnectStrategy: (retries: number) => Math.min(MAX_RECONNECT_MS, 50 * 2 ** Math.min(retries, 10)),
    };
    const client = createClient({
      socket: tls ? { ...socket, tls: true } : socket,
      ...(username === undefined ? {} : { username }),
      ...(password === undefined ? {} : { password }),
      ...(database === undefined ? {} : { database }),
      disableOfflineQueue: true,
      pingInterval: PING_MS,
      commandOptions: { typeMapping: { [RESP_TYPES.BLOB_STRING]: Buffer } },
    }) as unknown as RedisClientType;
    client.on('error', (error: Error) => {
      this.#trouble = error;
      settle(); // commands reject by themselves
    });
    client.on('ready', () => {
      this.#trouble = null;
      settle();
    });
    setTimeout(settle, CONNECT_TIMEOUT_MS).unref(); // it accepts connections and says nothing
    if (!this.#closed) client.connect().catch(settle);
    return client;
  }

  /** Resolves when the server is connected, or is known not to be there. */
  async settled(): Promise<void> {
    await this.#attempted;
  }

  async send(args: RedisArguments, signal?: AbortSignal): Promise<RedisReply> {
    await this.#attempted;
    const client = await this.#client;
    // The client would only say that it is offline.
    if (this.#trouble !== null && !client.isReady) throw this.#trouble;
    return client.sendCommand<RedisReply>(
      args as (string | Buffer)[],
      signal === undefined ? {} : { abortSignal: signal },
    );
  }

  async close(): Promise<void> {
    this.#closed = true;
    const client = await this.#client.catch(() => null);
    if (client?.isOpen === true) client.destroy();
  }
}
