/*
 * RESP2, the protocol of Redis and Valkey (https://redis.io/docs/latest/develop/reference/protocol-spec/): commands, and replies
 * of bounded size.
 */

/** Strings of bytes are Uint8Arrays, Buffers unless `allocate` gave others; simple strings are strings. */
export type RedisReply = Uint8Array | string | number | null | readonly RedisReply[];

export type RedisArguments = readonly (string | Buffer)[];

/** An error that the server answered, such as "MOVED 3999 127.0.0.1:6381". The connection goes on. */
export class RedisError extends Error {}

/** Of a status, a number or an error: the longest lines that servers send are error texts of some hundred bytes. */
const MAX_LINE = 4096;
/** CLUSTER SLOTS nests lists three deep. */
const MAX_DEPTH = 4;
/** Counted for each reply in a list, besides its bytes: the memory of a JavaScript value. */
const ELEMENT_BYTES = 32;

export function encodeCommand(args: RedisArguments): Buffer {
  const parts: Buffer[] = [Buffer.from(`*${args.length}\r\n`)];
  for (const argument of args) {
    const bytes = typeof argument === 'string' ? Buffer.from(argument) : argument;
    parts.push(Buffer.from(`$${bytes.length}\r\n`), bytes, Buffer.from('\r\n'));
  }
  return Buffer.concat(parts);
}

/** An expected reply, and its receiver. */
export interface ExpectedReply {
  /** Bytes that the whole reply may hold. */
  readonly maxBytes: number;
  /** The caller has given up: its bytes are skipped and not kept. */
  readonly abandoned: boolean;
  /** Memory for a string of bytes that is the whole reply; default: new memory. */
  readonly allocate?: ((length: number) => Uint8Array) | undefined;
  settle(reply: RedisReply | RedisError): void;
}

interface List {
  readonly items: (RedisReply | RedisError)[];
  readonly length: number;
}

/**
 * Reads replies out of a stream of bytes. A length is compared with the bound before memory is taken for it, so a server that
 * announces 2 GB costs nothing but its connection.
 */
export class ReplyParser {
  readonly #next: () => ExpectedReply | null;
  #reply: ExpectedReply | null = null;
  /** Of the reply being read. */
  #budget = 0;
  readonly #lists: List[] = [];
  #line = '';
  /** A bulk string being read: its bytes, or null where they are skipped. */
  #bulk: { readonly bytes: Uint8Array | null; readonly length: number; filled: number } | null = null;

  /** @param next the expected reply, the same until it is settled; null: none is due */
  constructor(next: () => ExpectedReply | null) {
    this.#next = next;
  }

  /** @throws Error if the stream is not as expected: the connection cannot be used any more */
  push(chunk: Buffer): void {
    for (let at = 0; at < chunk.length; ) {
      if (this.#reply === null) this.#begin();
      at = this.#bulk === null ? this.#takeLine(chunk, at) : this.#takeBulk(chunk, at);
    }
  }

  /** Where the next bytes of the stream belong, if they are read there; then `took`. Null: they are to be pushed. */
  get room(): Uint8Array | null {
    const bulk = this.#bulk;
    if (bulk === null || bulk.bytes === null || bulk.filled >= bulk.length || this.#reply!.abandoned) return null;
    return bulk.bytes.subarray(bulk.filled);
  }

  /** So many bytes were read into `room`. */
  took(length: number): void {
    this.#bulk!.filled += length;
  }

  #begin(): void {
    this.#reply = this.#next();
    if (this.#reply === null) throw new Error('the server sent a reply to no command');
    this.#budget = this.#reply.maxBytes;
  }

  #spend(bytes: number): void {
    this.#budget -= bytes;
    if (this.#budget < 0)
      throw new Error(`a reply of more than ${this.#reply!.maxBytes} bytes, which is all that was asked for`);
  }

  #takeLine(chunk: Buffer, from: number): number {
    const end = chunk.indexOf(0x0a, from);
    this.#line += chunk.toString('latin1', from, end < 0 ? chunk.length : end);
    if (this.#line.length > MAX_LINE) throw new Error('a reply that is no reply of Redis: a line without end');
    if (end < 0) return chunk.length;
    const line = this.#line;
    this.#line = '';
    if (!line.endsWith('\r')) throw new Error('a reply that is no reply of Redis: a line without CR');
    const value = this.#onLine(line[0] ?? '', line.slice(1, -1));
    if (value !== undefined) this.#finish(value);
    return end + 1;
  }

  /** undefined: there is more to come of it. */
  #onLine(type: string, text: string): RedisReply | RedisError | undefined {
    switch (type) {
      case '+':
        return text;
      case '-':
        return new RedisError(text);
      case ':':
        return count(text);
      case '$': {
        const length = count(text);
        if (length < 0) return null;
        this.#spend(length);
        this.#bulk = { bytes: this.#memory(length), length, filled: 0 };
        return undefined;
      }
      case '*': {
        const length = count(text);
        if (length < 0) return null;
        if (this.#lists.length === MAX_DEPTH) throw new Error(`a reply of lists more than ${MAX_DEPTH} deep`);
        this.#spend(length * ELEMENT_BYTES);
        if (length === 0) return [];
        this.#lists.push({ items: [], length });
        return undefined;
      }
      default:
        throw new Error(`a reply that is no reply of Redis: it begins with ${JSON.stringify(type)}`);
    }
  }

  #memory(length: number): Uint8Array | null {
    const { abandoned, allocate } = this.#reply!;
    if (abandoned) return null;
    return allocate !== undefined && length > 0 && this.#lists.length === 0
      ? allocate(length)
      : Buffer.allocUnsafe(length);
  }

  /** The bytes and the CRLF behind them. */
  #takeBulk(chunk: Buffer, from: number): number {
    const bulk = this.#bulk!;
    const take = Math.min(bulk.length + 2 - bulk.filled, chunk.length - from);
    // The caller gave up while it came: its bytes are dropped.
    if (bulk.bytes !== null && this.#reply!.abandoned) this.#bulk = { ...bulk, bytes: null };
    const { bytes } = this.#bulk!;
    if (bytes !== null && bulk.filled < bulk.length) {
      bytes.set(chunk.subarray(from, from + Math.min(take, bulk.length - bulk.filled)), bulk.filled);
    }
    this.#bulk!.filled += take;
    if (this.#bulk!.filled === bulk.length + 2) {
      this.#bulk = null;
      this.#finish(bytes);
    }
    return from + take;
  }

  #finish(value: RedisReply | RedisError): void {
    for (let done = value; ; ) {
      const list = this.#lists.at(-1);
      if (list === undefined) {
        const reply = this.#reply!;
        this.#reply = null;
        reply.settle(done);
        return;
      }
      list.items.push(done);
      if (list.items.length < list.length) return;
      this.#lists.pop();
      done = list.items as RedisReply[];
    }
  }
}

function count(text: string): number {
  if (!/^-?\d{1,15}$/.test(text))
    throw new Error(`a reply that is no reply of Redis: "${text.slice(0, 20)}" is no number`);
  return Number(text);
}
