import {
  type RedisAccess,
  type RedisAddress,
  type RedisArguments,
  RedisNode,
  type RedisReply,
  type RedisSendOptions,
} from './redis-node.js';

/** https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/ */
const SLOTS = 16_384;
/** The answer to CLUSTER SLOTS: 16,384 slots of as many ranges, at some hundred bytes each, would still fit. */
const MAX_SLOTS_BYTES = 8 * 1024 * 1024;
/** A key may move again while it is asked for. */
const MAX_REDIRECTIONS = 5;
/** A node that is away may have been replaced. The other nodes are asked about it, at most this often. */
const REFRESH_MS = 1000;

interface Redirection {
  readonly asking: boolean;
  readonly slot: number;
  readonly address: string;
}

/**
 * A cluster. The nodes of the slots are learnt from CLUSTER SLOTS and corrected by MOVED and ASK. The client library's own
 * cluster support waits for nodes that are away; here a command for such a node fails at once and the other nodes' slots are
 * served all the same, because a cache that does not answer must not cost a reader anything.
 */
export class RedisCluster {
  readonly #access: RedisAccess;
  readonly #roots: readonly RedisAddress[];
  readonly #nodes = new Map<string, RedisNode>();
  /** Per slot: the address of its master; undefined: not known. */
  #slots: (string | undefined)[] = [];
  #refreshing: Promise<void> | null = null;
  #refreshedAt = Number.NEGATIVE_INFINITY;

  constructor(roots: readonly RedisAddress[], access: RedisAccess) {
    this.#roots = roots;
    this.#access = access;
  }

  /** Resolves when the slots are known and their nodes connected, or are known not to be there. */
  async settled(): Promise<void> {
    await this.#refresh();
    await Promise.all([...this.#nodes.values()].map((node) => node.settled()));
  }

  async send(key: string, args: RedisArguments, options: RedisSendOptions): Promise<RedisReply> {
    const slot = slotOf(key);
    if (this.#slots.length === 0) await this.#refresh();
    const address = this.#slots[slot];
    if (address === undefined) {
      this.#refreshSoon();
      throw new Error(`no node of the Redis cluster has slot ${slot}`);
    }
    let node = this.#node(address);
    let asking = false;
    for (let redirections = 0; ; redirections++) {
      try {
        // Both in one go: they must not be parted by another command of this connection.
        const asked = asking ? node.send(['ASKING'], { signal: options.signal }) : null;
        const reply = node.send(args, options);
        reply.catch(() => {});
        await asked;
        return await reply;
      } catch (error) {
        const redirection = redirectionOf(error);
        if (redirection === null) {
          this.#refreshSoon();
          throw error;
        }
        if (redirections === MAX_REDIRECTIONS) throw error;
        asking = redirection.asking;
        node = this.#node(
          redirection.address.startsWith(':') ? node.address.host + redirection.address : redirection.address,
        );
        if (asking) continue; // for this once: the slot is still on its way
        this.#slots[redirection.slot] = keyOf(node.address);
        this.#refreshSoon();
      }
    }
  }

  async close(): Promise<void> {
    const nodes = [...this.#nodes.values()];
    this.#nodes.clear();
    await Promise.all(nodes.map((node) => node.close()));
  }

  #node(address: string): RedisNode {
    let node = this.#nodes.get(address);
    if (node === undefined) {
      const colon = address.lastIndexOf(':');
      node = new RedisNode({ host: address.slice(0, colon), port: Number(address.slice(colon + 1)) }, this.#access);
      this.#nodes.set(address, node);
    }
    return node;
  }

  #refreshSoon(): void {
    if (performance.now() - this.#refreshedAt < REFRESH_MS) return;
    this.#refresh().catch(() => {
      // No node answers: commands say so themselves.
    });
  }

  #refresh(): Promise<void> {
    this.#refreshing ??= this.#discover().finally(() => {
      this.#refreshing = null;
      this.#refreshedAt = performance.now();
    });
    return this.#refreshing;
  }

  /** Asks for the nodes of the slots; the first answer counts. @throws the last node's refusal */
  async #discover(): Promise<void> {
    const known = new Set([...this.#slots.filter((address) => address !== undefined), ...this.#roots.map(keyOf)]);
    const answers = [...known].map(async (address) => {
      const node = this.#node(address);
      return { slots: slotsOf(await node.send(['CLUSTER', 'SLOTS'], { maxBytes: MAX_SLOTS_BYTES }), node.address) };
    });
    const { slots } = await Promise.any(answers).catch((error: AggregateError) => {
      throw error.errors.at(-1);
    });
    this.#slots = slots;
    const used = new Set(slots);
    for (const [address, node] of this.#nodes) {
      if (used.has(address) || this.#roots.some((root) => keyOf(root) === address)) continue;
      this.#nodes.delete(address);
      void node.close();
    }
    for (const address of used) if (address !== undefined) this.#node(address);
  }
}

function keyOf({ host, port }: RedisAddress): string {
  return `${host}:${port}`;
}

/** CLUSTER SLOTS: [first, last, [host, port, …] of the master, replicas…]… A node that does not know its host is where it answered. */
function slotsOf(reply: RedisReply, asked: RedisAddress): (string | undefined)[] {
  if (!Array.isArray(reply)) throw new Error('CLUSTER SLOTS: a list expected');
  const slots = new Array<string | undefined>(SLOTS).fill(undefined);
  for (const range of reply as RedisReply[]) {
    const [first, last, master] = range as readonly RedisReply[];
    const [host, port] = master as readonly RedisReply[];
    const name = host === null || host === undefined ? '' : String(host);
    slots.fill(`${name === '' || name === '?' ? asked.host : name}:${Number(port)}`, Number(first), Number(last) + 1);
  }
  return slots;
}

/** "MOVED 3999 127.0.0.1:6381", "ASK 3999 127.0.0.1:6381" */
function redirectionOf(error: unknown): Redirection | null {
  const match = /^(MOVED|ASK) (\d+) (\S+:\d+)$/.exec(error instanceof Error ? error.message : '');
  return match === null ? null : { asking: match[1] === 'ASK', slot: Number(match[2]), address: match[3]! };
}

/** CRC-16/XMODEM of what stands in the key's first braces, modulo the number of slots. */
export function slotOf(key: string): number {
  const open = key.indexOf('{');
  const close = key.indexOf('}', open + 1);
  const tag = open >= 0 && close > open + 1 ? key.slice(open + 1, close) : key;
  let crc = 0;
  for (const byte of Buffer.from(tag)) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) crc = (crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1) & 0xffff;
  }
  return crc % SLOTS;
}
