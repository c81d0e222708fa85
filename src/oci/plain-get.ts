import { connect, type Socket } from 'node:net';
import { HEAD_END, ResponseHead, requestHead } from './http-head.js';
import type { BlobTarget } from './source.js';

/** One read of the head at most: what comes with it of the body is copied. */
const HEAD_BUFFER_BYTES = 4096;
/** A response head longer than this is not one we want to parse. */
const MAX_HEAD_BYTES = 64 * 1024;
const IDLE_TIMEOUT_MS = 30_000;

/**
 * GETs a whole blob over plain HTTP, from the socket into the target's memory. A general HTTP client gives each 64 KiB a buffer of its
 * own (docs/internals/decisions/0004-own-range-client.md).
 *
 * Ends early when the answer is not exactly the blob or the connection fails: the caller goes on from there with a client that
 * knows about redirects, logins and retries.
 *
 * @returns how many bytes have come
 * @throws what `target` rejects with
 */
export function plainGet(
  url: URL,
  headers: Readonly<Record<string, string>>,
  size: number,
  target: BlobTarget,
  signal?: AbortSignal,
): Promise<number> {
  const request = requestHead(url, { ...headers, connection: 'close' });
  if (request === null || signal?.aborted) return Promise.resolve(0);
  let head: Buffer | null = Buffer.alloc(0);
  const headBuffer = Buffer.allocUnsafeSlow(HEAD_BUFFER_BYTES);
  let done = 0;
  let waiting: Promise<void> | null = null;
  return new Promise((resolve) => {
    /** What has come of the head, and of the body behind it. False when it is not for us. */
    const takeHead = (bytes: Uint8Array): boolean => {
      head = Buffer.concat([head!, bytes]);
      const end = head.indexOf(HEAD_END);
      if (end === -1) return head.length <= MAX_HEAD_BYTES;
      const rest = head.subarray(end + HEAD_END.length).subarray(0, size);
      const response = new ResponseHead(head.toString('latin1', 0, end));
      if (response.status !== 200 || !response.isPlain(size) || rest.length > target.room().length) return false;
      head = null;
      target.room().set(rest);
      return rest.length === 0 || took(rest.length);
    };
    /** So much is there. False when no more may come for now. */
    const took = (bytes: number): boolean => {
      done += bytes;
      waiting = target.filled(bytes);
      if (done === size) finish();
      else waiting?.then(() => void socket.resume(), finish);
      return waiting === null;
    };
    const socket: Socket = connect({
      host: url.hostname.replace(/^\[|\]$/g, ''),
      port: Number(url.port || 80),
      noDelay: true,
      onread: {
        buffer: () => (head !== null || done === size ? headBuffer : target.room().subarray(0, size - done)),
        callback: (length, buffer) => {
          if (head === null) return took(length);
          const go = takeHead(buffer.subarray(0, length));
          if (!go && head !== null) finish();
          return go;
        },
      },
    });
    const finish = (): void => {
      signal?.removeEventListener('abort', finish);
      socket.destroy();
      resolve(waiting === null ? done : waiting.then(() => done));
    };
    socket.on('error', finish).on('close', finish).on('end', finish);
    socket.setTimeout(IDLE_TIMEOUT_MS, finish);
    signal?.addEventListener('abort', finish, { once: true });
    socket.write(request, 'latin1');
  });
}

export interface SmallAnswer {
  readonly head: ResponseHead;
  readonly bytes: Buffer;
}

/**
 * GETs something small over plain HTTP: where a registry is asked for nothing else this way, an HTTP client takes longer to
 * load than it to answer. Null when the answer is anything but 200 with at most `limit` bytes as they are: for a real client.
 */
export function plainGetSmall(
  url: URL,
  headers: Readonly<Record<string, string>>,
  limit: number,
  signal?: AbortSignal,
): Promise<SmallAnswer | null> {
  const request = requestHead(url, { ...headers, connection: 'close' });
  if (request === null || signal?.aborted) return Promise.resolve(null);
  return new Promise((resolve) => {
    const socket = connect({ host: url.hostname.replace(/^\[|\]$/g, ''), port: Number(url.port || 80), noDelay: true });
    let received = Buffer.alloc(0);
    let head: ResponseHead | null = null;
    let length = 0;
    const finish = (answer: SmallAnswer | null): void => {
      signal?.removeEventListener('abort', giveUp);
      socket.destroy();
      resolve(answer);
    };
    const giveUp = (): void => finish(null);
    socket.on('data', (chunk) => {
      received = Buffer.concat([received, chunk]);
      if (head === null) {
        const end = received.indexOf(HEAD_END);
        if (end === -1) return received.length > MAX_HEAD_BYTES ? giveUp() : undefined;
        head = new ResponseHead(received.toString('latin1', 0, end));
        length = Number(head.values('content-length')[0]);
        if (head.status !== 200 || !head.isPlain(length) || length > limit) return giveUp();
        received = received.subarray(end + HEAD_END.length);
      }
      if (received.length >= length) finish({ head, bytes: received.subarray(0, length) });
    });
    socket.on('error', giveUp).on('close', giveUp).on('end', giveUp);
    socket.setTimeout(IDLE_TIMEOUT_MS, giveUp);
    signal?.addEventListener('abort', giveUp, { once: true });
    socket.write(request, 'latin1');
  });
}
