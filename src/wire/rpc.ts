import { ClipError, type ErrorCode } from '../bytes/index.js';

/** An error as it travels between processes: what a user may see, no stack. */
export interface WireError {
  readonly code: ErrorCode;
  readonly message: string;
  readonly hint?: string;
}

export function toWireError(error: unknown): WireError {
  if (error instanceof ClipError) {
    return { code: error.code, message: error.message, ...(error.hint === undefined ? {} : { hint: error.hint }) };
  }
  return { code: 'SYSTEM', message: error instanceof Error ? error.message : String(error) };
}

export function fromWireError(error: WireError): ClipError {
  return new ClipError(error.code, error.message, { hint: error.hint });
}

type Message =
  | { readonly call: string; readonly id: number; readonly args: unknown }
  | { readonly reply: number; readonly result?: unknown; readonly error?: WireError };

/** A method's argument and result; both sides of a channel are described by a record of these. */
export type Methods = Record<string, (args: never) => unknown>;

/** What carries the messages: a ChildProcess, or `process` in a child. */
export interface Port {
  send?(message: object, callback?: (error: Error | null) => void): boolean;
  on(event: 'message', listener: (message: unknown) => void): unknown;
  on(event: 'disconnect', listener: () => void): unknown;
}

/**
 * Calls both ways over Node's IPC channel, in order. Descriptors travel on a socket beside it: whoever sends them writes
 * the socket first and the message after, so that the receiver finds them there.
 */
export class Rpc<Remote extends Methods> {
  readonly #port: Port;
  readonly #pending = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  #nextId = 1;
  #closed = false;

  /** @param handler the method of that name, if there is one */
  constructor(port: Port, handler: (name: string) => Methods[string] | undefined) {
    this.#port = port;
    port.on('message', (message) => {
      void this.#onMessage(message as Message, handler);
    });
    port.on('disconnect', () => {
      this.#closed = true;
      for (const { reject } of this.#pending.values()) reject(new ClipError('ABORTED', 'the other process has ended'));
      this.#pending.clear();
    });
  }

  call<K extends keyof Remote & string>(
    method: K,
    args: Parameters<Remote[K]>[0],
  ): Promise<Awaited<ReturnType<Remote[K]>>> {
    return new Promise((resolve, reject) => {
      if (this.#closed) {
        reject(new ClipError('ABORTED', 'the other process has ended'));
        return;
      }
      const id = this.#nextId++;
      this.#pending.set(id, { resolve: resolve as (value: unknown) => void, reject });
      this.#post({ call: method, id, args });
    });
  }

  async #onMessage(message: Message, find: (name: string) => Methods[string] | undefined): Promise<void> {
    if ('reply' in message) {
      const pending = this.#pending.get(message.reply);
      this.#pending.delete(message.reply);
      if (message.error !== undefined) pending?.reject(fromWireError(message.error));
      else pending?.resolve(message.result);
      return;
    }
    try {
      const handler = find(message.call) as ((args: unknown) => unknown) | undefined;
      if (handler === undefined) throw new ClipError('UNSUPPORTED', `no method ${message.call}`);
      this.#post({ reply: message.id, result: await handler(message.args) });
    } catch (error) {
      this.#post({ reply: message.id, error: toWireError(error) });
    }
  }

  #post(message: Message): void {
    // A peer that has just died is noticed by 'disconnect'; the error of this one message says nothing more.
    this.#port.send?.(message, () => {});
  }
}
