import { EventEmitter } from 'node:events';
import { Socket } from 'node:net';
import { reapChild } from '../linux/index.js';

/** A process that has closed its channel has ended, or is about to: it is asked this often. */
const REAP_MS = 2;

/**
 * A child of this process that Node does not know of, because a shell has started it before it became this process. Speaks what Node's IPC
 * channel speaks: lines of JSON. Of ChildProcess it is what a server's keeper uses.
 */
export class AdoptedServer extends EventEmitter {
  readonly pid: number;
  exitCode: number | null = null;
  signalCode: NodeJS.Signals | null = null;
  /** It was sent a signal. */
  killed = false;
  readonly #channel: Socket;
  #text = '';

  /** @param channel our end of its IPC channel: taken over */
  constructor(pid: number, channel: number) {
    super();
    this.pid = pid;
    this.#channel = new Socket({ fd: channel, readable: true, writable: true });
    this.#channel.setEncoding('utf8');
    this.#channel.on('data', (text: string) => this.#onText(text));
    this.#channel.on('error', () => {}); // 'close' follows
    this.#channel.once('close', () => {
      this.emit('disconnect');
      this.#reap();
    });
  }

  send(message: object, callback: (error: Error | null) => void = () => {}): boolean {
    return this.#channel.write(`${JSON.stringify(message)}\n`, (error) => callback(error ?? null));
  }

  kill(signal: NodeJS.Signals): boolean {
    // Until it is reaped its number is no other process's.
    if (this.exitCode !== null || this.signalCode !== null) return false;
    this.killed = true;
    return process.kill(this.pid, signal);
  }

  #onText(text: string): void {
    this.#text += text;
    for (let end = this.#text.indexOf('\n'); end >= 0; end = this.#text.indexOf('\n')) {
      const message = JSON.parse(this.#text.slice(0, end)) as unknown;
      this.#text = this.#text.slice(end + 1);
      this.emit('message', message);
    }
  }

  #reap(): void {
    const ended = reapChild(this.pid);
    if (ended === null) {
      setTimeout(() => this.#reap(), REAP_MS);
      return;
    }
    this.exitCode = ended.code;
    this.signalCode = ended.signal;
    this.emit('exit', ended.code, ended.signal);
  }
}
