import { connect as connectTcp, type Socket } from 'node:net';
import { encodeCommand, type RedisArguments, RedisError, type RedisReply, ReplyParser } from './resp.js';

export type { RedisArguments, RedisReply } from './resp.js';

/** How a server is reached. The nodes of a cluster differ only in their addresses. */
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

export interface RedisSendOptions {
  readonly signal?: AbortSignal | undefined;
  /** Largest reply in bytes; the default is enough for statuses, numbers and errors. */
  readonly maxBytes?: number;
  /** As in ExpectedReply. After a rejection bytes may still come into what it gave. */
  readonly allocate?: ((length: number) => Uint8Array) | undefined;
}

/** The first attempt to connect is waited for; the breaker in front keeps readers from waiting for the next ones. */
const CONNECT_TIMEOUT_MS = 1000;
const FIRST_RECONNECT_MS = 50;
const MAX_RECONNECT_MS = 1000;
/** A peer that has vanished without a word is noticed by pings that stay unanswered. */
const PING_MS = 5000;
const SILENCE_MS = 12_000;
const SMALL_REPLY_BYTES = 4096;
/** What is read at a time, unless it is read to where it belongs. */
const READ_BYTES = 64 * 1024;

/** Loaded when it is needed: each server waits for it otherwise. */
const tlsModule = () => process.getBuiltinModule('node:tls');

interface Pending {
  readonly maxBytes: number;
  readonly allocate: RedisSendOptions['allocate'];
  abandoned: boolean;
  settle(reply: RedisReply | RedisError): void;
  reject(error: Error): void;
}

/**
 * A connection to one server, made at once and made again whenever it is lost. While there is none, commands fail immediately
 * and do not queue up. Commands are pipelined; each says how large its reply may be, and a larger one ends the connection.
 */
export class RedisNode {
  readonly #access: RedisAccess;
  readonly #pending: Pending[] = [];
  #socket: Socket | null = null;
  /** Connected and logged in. */
  #ready = false;
  #attempts = 0;
  #closed = false;
  #heardAt = 0;
  #timer: NodeJS.Timeout | null = null;
  #pings: NodeJS.Timeout | null = null;
  /** Why there is no connection: a refused login, say. */
  #trouble = new Error('not connected yet');
  /** Settles with the first attempt to connect: until then it is not known whether the server is there. */
  readonly #attempted: Promise<void>;
  #settle: () => void = () => {};

  constructor(
    readonly address: RedisAddress,
    access: RedisAccess,
  ) {
    this.#access = access;
    this.#attempted = new Promise((resolve) => {
      this.#settle = resolve;
    });
    setTimeout(this.#settle, CONNECT_TIMEOUT_MS).unref(); // it accepts connections and says nothing
    this.#connect();
  }

  /** Resolves when the server is connected, or is known not to be there. */
  async settled(): Promise<void> {
    await this.#attempted;
  }

  /** Rejects with RedisError when the server answers one; with the abort's reason; when there is no connection. */
  async send(args: RedisArguments, options: RedisSendOptions = {}): Promise<RedisReply> {
    await this.#attempted;
    options.signal?.throwIfAborted();
    if (!this.#ready) throw this.#trouble;
    return this.#write(args, options);
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#lost(new Error('the connection was closed'));
  }

  #connect(): void {
    const { host, port } = this.address;
    const { tls } = this.#access;
    const isName = /[a-z]/i.test(host) && !host.includes(':');
    const parser = new ReplyParser(() => this.#pending[0] ?? null);
    const common = Buffer.allocUnsafeSlow(READ_BYTES);
    const onread = {
      buffer: () => parser.room ?? common,
      callback: (length: number, buffer: Uint8Array): boolean => {
        this.#heardAt = performance.now();
        try {
          if (buffer === common) parser.push(common.subarray(0, length));
          else parser.took(length);
        } catch (error) {
          lost(new Error(`${host}:${port}: ${(error as Error).message}`));
        }
        return true;
      },
    };
    const target = { host, port, onread };
    const socket = tls ? tlsModule().connect({ ...target, ...(isName && { servername: host }) }) : connectTcp(target);
    this.#socket = socket;
    const lost = (error: Error): void => {
      if (this.#socket === socket) this.#lost(error);
    };
    socket.setNoDelay(true);
    socket.setTimeout(CONNECT_TIMEOUT_MS, () => lost(new Error(`no connection to ${host}:${port} within a second`)));
    socket.once(tls ? 'secureConnect' : 'connect', () => {
      socket.setTimeout(0);
      this.#logIn().then(() => this.#becomeReady(), lost);
    });
    const closed = (): void => lost(new Error(`${host}:${port} closed the connection`));
    socket.on('error', lost).on('end', closed).on('close', closed);
  }

  async #logIn(): Promise<void> {
    const { username, password, database } = this.#access;
    const commands: RedisArguments[] = [];
    if (password !== undefined) commands.push(['AUTH', ...(username === undefined ? [] : [username]), password]);
    if (database !== undefined) commands.push(['SELECT', String(database)]);
    // Also without a login: a server that demands one refuses now.
    commands.push(['PING']);
    await Promise.all(commands.map((command) => this.#write(command, {})));
  }

  #becomeReady(): void {
    this.#ready = true;
    this.#attempts = 0;
    this.#heardAt = performance.now();
    this.#pings = setInterval(() => {
      if (performance.now() - this.#heardAt > SILENCE_MS) this.#lost(new Error('the server does not answer pings'));
      else this.#write(['PING'], {}).catch(() => {});
    }, PING_MS).unref();
    this.#settle();
  }

  /** The connection is of no use any more. */
  #lost(error: Error): void {
    this.#ready = false;
    this.#trouble = error;
    this.#socket?.on('error', () => {}).destroy();
    this.#socket = null;
    if (this.#pings !== null) clearInterval(this.#pings);
    for (const pending of this.#pending.splice(0)) pending.reject(error);
    this.#settle();
    if (this.#closed) {
      if (this.#timer !== null) clearTimeout(this.#timer);
      return;
    }
    const delay = Math.min(MAX_RECONNECT_MS, FIRST_RECONNECT_MS * 2 ** Math.min(this.#attempts++, 10));
    this.#timer = setTimeout(() => {
      if (!this.#closed) this.#connect();
    }, delay).unref();
  }

  #write(
    args: RedisArguments,
    { signal, maxBytes = SMALL_REPLY_BYTES, allocate }: RedisSendOptions,
  ): Promise<RedisReply> {
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        // Replies come in order, so the reply itself is still to come; its bytes are skipped.
        pending.abandoned = true;
        reject(signal!.reason as Error);
      };
      const pending: Pending = {
        maxBytes,
        allocate,
        abandoned: false,
        settle: (reply) => {
          this.#pending.shift(); // replies come in the order of the commands
          signal?.removeEventListener('abort', onAbort);
          if (reply instanceof RedisError) reject(reply);
          else resolve(reply);
        },
        reject: (error) => {
          signal?.removeEventListener('abort', onAbort);
          reject(error);
        },
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      this.#pending.push(pending);
      this.#socket?.write(encodeCommand(args));
    });
  }
}
