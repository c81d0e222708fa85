import type { RedisClientType, RedisClusterType } from 'redis';
import { type ContentCache, type ContentOptions, checkHash, collect } from './types.js';

export interface RedisOptions {
  /** redis://[user:password@]host:port[/db], rediss:// for TLS. Several: nodes of a cluster. */
  readonly urls: readonly string[];
  /** Keys expire after so many seconds; default: never. */
  readonly ttlSeconds?: number;
  /** Ask a cluster, even if only one of its nodes is named. Default: when several URLs are given. */
  readonly cluster?: boolean;
}

/** A value's largest size: beyond that a single-threaded server makes others wait. */
const CHUNK = 8 * 1024 * 1024;
const CONNECT_TIMEOUT_MS = 1000;
/** The client's own back-off goes to 2 s and more; the breaker in front already keeps readers from waiting. */
const MAX_RECONNECT_MS = 1000;

/** The commands used here, by their wire form: the same for a node and a cluster, and for Redis and Valkey. */
interface Commands {
  send(key: string, args: (string | Buffer)[]): Promise<unknown>;
  close(): Promise<void>;
}

/**
 * Redis or Valkey. Content lies under `clip:{hash}:n` in chunks of 8 MiB (the braces keep a content's chunks on one node);
 * ranges are fetched with GETRANGE. Chunk 0 is written last: who sees it sees all of them.
 */
export class RedisContentCache implements ContentCache {
  readonly #options: RedisOptions;
  #commands: Promise<Commands> | null = null;

  constructor(options: RedisOptions) {
    this.#options = options;
  }

  async getContent(hash: string, offset: number, length: number, _options: ContentOptions): Promise<Uint8Array | null> {
    checkHash(hash);
    const commands = await this.#connect();
    const reads: Promise<Buffer>[] = [];
    for (let at = offset; at < offset + length; ) {
      const chunk = Math.floor(at / CHUNK);
      const end = Math.min(offset + length, (chunk + 1) * CHUNK);
      const key = keyOf(hash, chunk);
      reads.push(
        commands
          .send(key, ['GETRANGE', key, String(at - chunk * CHUNK), String(end - 1 - chunk * CHUNK)])
          .then((value) => (Buffer.isBuffer(value) ? value : Buffer.alloc(0))),
      );
      at = end;
    }
    const parts = await Promise.all(reads);
    const bytes = parts.length === 1 ? parts[0]! : Buffer.concat(parts);
    return bytes.length === length ? bytes : null;
  }

  async storeContent(chunks: AsyncIterable<Uint8Array>, hash: string, _options: ContentOptions): Promise<string> {
    checkHash(hash);
    const content = await collect(chunks);
    const commands = await this.#connect();
    const { ttlSeconds } = this.#options;
    const expiry = ttlSeconds === undefined ? [] : ['EX', String(ttlSeconds)];
    for (let chunk = Math.max(0, Math.ceil(content.length / CHUNK) - 1); chunk >= 0; chunk--) {
      const value = content.subarray(chunk * CHUNK, (chunk + 1) * CHUNK);
      const key = keyOf(hash, chunk);
      await commands.send(key, ['SET', key, Buffer.from(value.buffer, value.byteOffset, value.length), ...expiry]);
    }
    return hash;
  }

  async has(hash: string): Promise<boolean> {
    const key = keyOf(checkHash(hash), 0);
    return Number(await (await this.#connect()).send(key, ['EXISTS', key])) === 1;
  }

  async close(): Promise<void> {
    const commands = this.#commands;
    this.#commands = null;
    await (await commands?.catch(() => null))?.close();
  }

  /** A connection that could not be made is tried anew by the next call; one that broke reconnects by itself. */
  #connect(): Promise<Commands> {
    this.#commands ??= connect(this.#options).catch((error: unknown) => {
      this.#commands = null;
      throw error;
    });
    return this.#commands;
  }
}

function keyOf(hash: string, chunk: number): string {
  return `clip:{${hash}}:${chunk}`;
}

async function connect(options: RedisOptions): Promise<Commands> {
  const redis = await import('redis');
  // Commands fail at once while there is no connection, instead of queueing up behind one that may never come.
  const common = {
    disableOfflineQueue: true,
    socket: {
      connectTimeout: CONNECT_TIMEOUT_MS,
      noDelay: true,
      reconnectStrategy: (retries: number) => Math.min(MAX_RECONNECT_MS, 50 * 2 ** Math.min(retries, 10)),
    },
  };
  const typeMapping = { [redis.RESP_TYPES.BLOB_STRING]: Buffer };
  if (options.cluster ?? options.urls.length > 1) {
    const cluster: RedisClusterType = redis.createCluster({
      rootNodes: options.urls.map((url) => ({ url })),
      defaults: common,
    }) as unknown as RedisClusterType;
    cluster.on('error', () => {}); // calls reject by themselves
    await cluster.connect();
    const mapped = cluster.withTypeMapping(typeMapping);
    return {
      send: (key, args) => mapped.sendCommand(key, args[0] === 'GETRANGE' || args[0] === 'EXISTS', args),
      close: () => cluster.close(),
    };
  }
  const client: RedisClientType = redis.createClient({
    url: options.urls[0]!,
    ...common,
  }) as unknown as RedisClientType;
  client.on('error', () => {});
  // connect() alone would try for ever: the first refusal is the answer.
  await new Promise<void>((resolve, reject) => {
    const refused = (error: unknown): void => {
      client.destroy();
      reject(error);
    };
    client.once('error', refused);
    client.connect().then(() => {
      client.off('error', refused); // from now on it reconnects by itself
      resolve();
    }, reject);
  });
  const mapped = client.withTypeMapping(typeMapping);
  return {
    send: (_key, args) => mapped.sendCommand(args),
    close: async () => client.destroy(),
  };
}
