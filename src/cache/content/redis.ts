import { RedisCluster } from './redis-cluster.js';
import {
  type RedisAccess,
  type RedisAddress,
  type RedisArguments,
  RedisNode,
  type RedisReply,
  type RedisSendOptions,
} from './redis-node.js';
import { type ContentCache, type ContentOptions, checkHash, type LookupOptions } from './types.js';

export interface RedisOptions extends Partial<RedisAccess> {
  /** The server, or nodes of a cluster: the others are found from any of them. */
  readonly addresses: readonly RedisAddress[];
  /** After these seconds keys expire; default: never. */
  readonly ttlSeconds?: number;
  /** Ask a cluster, even if only one of its nodes is named. Default: when several addresses are given. */
  readonly cluster?: boolean;
}

/** A value's largest size. The server has one thread, and larger values make others wait. */
const CHUNK = 8 * 1024 * 1024;
/** A program that stores a long content and ends in the middle keeps others from it for so long. Longer than a chunk takes. */
const CLAIM_SECONDS = '60';

/** The commands used here are the same for a node and a cluster, and for Redis and Valkey. */
interface Server {
  send(key: string, args: RedisArguments, options: RedisSendOptions): Promise<RedisReply>;
  settled(): Promise<void>;
  close(): Promise<void>;
}

/**
 * Redis or Valkey. Content lies under `clip:{hash}:n` in chunks of 8 MiB (the braces keep a content's chunks on one node);
 * ranges are fetched with GETRANGE. Chunk 0 is written last, so where it is, all of them are.
 */
export class RedisContentCache implements ContentCache {
  readonly #options: RedisOptions;
  #server: Server | null = null;

  constructor(options: RedisOptions) {
    this.#options = options;
  }

  async connect(): Promise<void> {
    await this.#open().settled();
  }

  async getContent(hash: string, offset: number, length: number, options: LookupOptions): Promise<Uint8Array | null> {
    checkHash(hash);
    const server = this.#open();
    const reads: Promise<Uint8Array>[] = [];
    for (let at = offset; at < offset + length; ) {
      const chunk = Math.floor(at / CHUNK);
      const end = Math.min(offset + length, (chunk + 1) * CHUNK);
      const key = keyOf(hash, chunk);
      const range = [String(at - chunk * CHUNK), String(end - 1 - chunk * CHUNK)];
      const whole = end - at === length;
      const { signal } = options;
      reads.push(
        server
          .send(key, ['GETRANGE', key, ...range], {
            signal,
            maxBytes: end - at,
            allocate: whole ? options.allocate : undefined,
          })
          .then((value) => (value instanceof Uint8Array ? value : Buffer.alloc(0))),
      );
      at = end;
    }
    const parts = await Promise.all(reads);
    const bytes = parts.length === 1 ? parts[0]! : Buffer.concat(parts);
    return bytes.length === length ? bytes : null;
  }

  async storeContent(chunks: AsyncIterable<Uint8Array>, hash: string, options: ContentOptions): Promise<string | null> {
    checkHash(hash);
    const server = this.#open();
    const { ttlSeconds } = this.#options;
    const expiry = ttlSeconds === undefined ? [] : ['EX', String(ttlSeconds)];
    const set = async (chunk: number, bytes: Buffer): Promise<void> => {
      const key = keyOf(hash, chunk);
      await server.send(key, ['SET', key, bytes, ...expiry], { signal: options.signal });
    };
    // Long content goes there as it comes, but for chunk 0, and by one program at a time.
    const claim = `clip:{${hash}}:storing`;
    let claimed = false;
    let first: Buffer | null = null;
    let count = 0;
    try {
      for await (const bytes of inChunks(chunks)) {
        if (count++ === 0) {
          first = bytes;
          continue;
        }
        if (!claimed) {
          const answer = await server.send(claim, ['SET', claim, '1', 'NX', 'EX', CLAIM_SECONDS], {
            signal: options.signal,
          });
          if (answer === null) return null;
          claimed = true;
          first = Buffer.from(first!); // and not all that it came with
        }
        await set(count - 1, bytes);
        await server.send(claim, ['EXPIRE', claim, CLAIM_SECONDS], { signal: options.signal });
      }
      await set(0, first ?? Buffer.alloc(0));
    } finally {
      if (claimed) await server.send(claim, ['DEL', claim], {}).catch(() => {}); // it expires
    }
    return hash;
  }

  /** All chunks: a server that is short of memory throws out single keys. */
  async has(hash: string, options: ContentOptions & { length: number }): Promise<boolean> {
    checkHash(hash);
    const keys = Array.from({ length: Math.max(1, Math.ceil(options.length / CHUNK)) }, (_, i) => keyOf(hash, i));
    return Number(await this.#open().send(keys[0]!, ['EXISTS', ...keys], { signal: options.signal })) === keys.length;
  }

  async close(): Promise<void> {
    const server = this.#server;
    this.#server = null;
    await server?.close();
  }

  #open(): Server {
    this.#server ??= serverOf(this.#options);
    return this.#server;
  }
}

function keyOf(hash: string, chunk: number): string {
  return `clip:{${hash}}:${chunk}`;
}

/** The same bytes, cut anew; none for empty content. */
async function* inChunks(parts: AsyncIterable<Uint8Array>): AsyncIterable<Buffer> {
  let chunk: Buffer = Buffer.alloc(0);
  for await (const part of parts) {
    let rest = Buffer.from(part.buffer, part.byteOffset, part.length);
    while (chunk.length + rest.length > CHUNK) {
      const taken = CHUNK - chunk.length;
      yield chunk.length === 0 ? rest.subarray(0, taken) : Buffer.concat([chunk, rest.subarray(0, taken)]);
      rest = rest.subarray(taken);
      chunk = Buffer.alloc(0);
    }
    chunk = chunk.length === 0 ? rest : Buffer.concat([chunk, rest]);
  }
  if (chunk.length > 0) yield chunk;
}

function serverOf(options: RedisOptions): Server {
  const { addresses, cluster = addresses.length > 1, tls = false } = options;
  const access: RedisAccess = { ...options, tls };
  if (cluster) return new RedisCluster(addresses, access);
  const node = new RedisNode(addresses[0]!, access);
  return {
    send: (_key, args, options) => node.send(args, options),
    settled: () => node.settled(),
    close: () => node.close(),
  };
}
