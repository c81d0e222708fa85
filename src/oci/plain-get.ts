import { connect, type Socket } from 'node:net';
import { HEAD_END, ResponseHead, requestHead } from './http-head.js';

/** One read of the socket at most: few enough system calls, and small enough to stay in the core's own cache. */
const BUFFER_BYTES = 256 * 1024;
/** A response head longer than this is not one we want to parse. */
const MAX_HEAD_BYTES = 64 * 1024;
const IDLE_TIMEOUT_MS = 30_000;

/**
 * GETs a whole blob over plain HTTP through one buffer that is used again and again: a chunk is valid until the next is asked
 * for. An HTTP client gives each 64 KiB a buffer of its own, whose garbage costs 0.3 s of a 300 MB layer's 3 s of CPU, and its
 * parser and streams as much again.
 *
 * Ends early, after however many bytes, when the answer is not exactly the blob or the connection fails: the caller goes on
 * from there with a client that knows about redirects, logins and retries.
 */
export async function* plainGet(
  url: URL,
  headers: Readonly<Record<string, string>>,
  size: number,
  signal?: AbortSignal,
): AsyncGenerator<Uint8Array, void, undefined> {
  const buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);
  let chunk: Uint8Array | null = null;
  let closed = false;
  let wake: (() => void) | null = null;
  const notify = (): void => {
    wake?.();
    wake = null;
  };
  const socket: Socket = connect({
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port: Number(url.port || 80),
    noDelay: true,
    onread: {
      buffer,
      callback: (length) => {
        chunk = buffer.subarray(0, length);
        notify();
        return false; // read no more until the reader is done with this
      },
    },
  });
  const close = (): void => {
    closed = true;
    notify();
  };
  const abort = (): void => void socket.destroy();
  socket.on('error', close).on('close', close).on('end', close);
  socket.setTimeout(IDLE_TIMEOUT_MS, abort);
  signal?.addEventListener('abort', abort, { once: true });
  try {
    const request = requestHead(url, { ...headers, connection: 'close' });
    if (request === null) return;
    socket.write(request, 'latin1');
    let head: Buffer | null = Buffer.alloc(0);
    let left = size;
    while (left > 0) {
      if (chunk === null) {
        if (closed) return;
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
        continue;
      }
      let bytes: Uint8Array = chunk;
      chunk = null;
      if (head !== null) {
        head = Buffer.concat([head, bytes]);
        const end = head.indexOf(HEAD_END);
        if (end === -1 && head.length > MAX_HEAD_BYTES) return;
        if (end !== -1) {
          const response = new ResponseHead(head.toString('latin1', 0, end));
          if (response.status !== 200 || !response.isPlain(size)) return; // for a real HTTP client
        }
        bytes = end === -1 ? head.subarray(0, 0) : head.subarray(end + HEAD_END.length);
        if (end !== -1) head = null;
      }
      if (bytes.length > left) bytes = bytes.subarray(0, left);
      left -= bytes.length;
      if (bytes.length > 0) yield bytes;
      socket.resume();
    }
  } finally {
    signal?.removeEventListener('abort', abort);
    socket.destroy();
  }
}
