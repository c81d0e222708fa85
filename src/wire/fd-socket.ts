import { ClipError } from '../bytes/index.js';
import { closeFd, receiveDescriptors, sendDescriptors } from '../linux/index.js';

/**
 * Descriptors between keeper and server, each set under a token that the message beside it names. The sender writes here
 * before it sends that message, so the receiver never waits.
 */
export class FdSocket {
  readonly #fd: number;
  readonly #arrived = new Map<string, number[]>();
  #nextToken = 1;

  /** @param fd one end of a non-blocking seqpacket pair */
  constructor(fd: number) {
    this.#fd = fd;
  }

  /** @returns the token to name in the message */
  send(fds: readonly number[]): string {
    const token = String(this.#nextToken++);
    sendDescriptors(this.#fd, Buffer.from(token), fds);
    return token;
  }

  take(token: string): number[] {
    while (!this.#arrived.has(token)) {
      const message = receiveDescriptors(this.#fd, 32, false);
      if (message === undefined || message === null) {
        throw new ClipError('SYSTEM', `descriptors ${token} did not arrive from the other process`);
      }
      this.#arrived.set(message.data.toString(), message.fds);
    }
    const fds = this.#arrived.get(token)!;
    this.#arrived.delete(token);
    return fds;
  }

  close(): void {
    for (const fds of this.#arrived.values()) for (const fd of fds) closeFd(fd);
    this.#arrived.clear();
    closeFd(this.#fd);
  }
}
