import { connect } from 'node:net';

export interface Answer {
  readonly status: number;
  readonly text: string;
}

/**
 * One HTTP request over a unix socket, and a connection of its own for it: nothing keeps the caller's process alive. Without Node's HTTP
 * client (docs/benchmarks.md, "Why these constants"): clipd's answers all say their length.
 * @param signal ends it
 * @throws the socket's error
 */
export function exchange(
  socketPath: string,
  method: string,
  path: string,
  body: unknown,
  signal: AbortSignal,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const content = body === undefined ? '' : JSON.stringify(body);
    const type = body === undefined ? '' : 'content-type: application/json\r\n';
    const length = `content-length: ${Buffer.byteLength(content)}`;
    const socket = connect(socketPath);
    const end = (error: Error | null, answer?: Answer): void => {
      signal.removeEventListener('abort', abort);
      socket.destroy();
      if (answer === undefined) reject(error ?? broken());
      else resolve(answer);
    };
    const abort = (): void => end(signal.reason as Error);
    if (signal.aborted) return abort();
    signal.addEventListener('abort', abort);
    const chunks: Buffer[] = [];
    let [received, expected] = [0, Number.POSITIVE_INFINITY];
    socket.on('data', (chunk: Buffer) => {
      chunks.push(chunk);
      received += chunk.length;
      if (expected === Number.POSITIVE_INFINITY) expected = lengthOf(Buffer.concat(chunks));
      if (received >= expected) end(null, answerOf(Buffer.concat(chunks)));
    });
    socket.on('error', end);
    socket.on('close', () => end(null)); // before all of the answer was there
    socket.write(
      `${method} ${path} HTTP/1.1\r\nhost: clipd\r\nconnection: close\r\n${type}${length}\r\n\r\n${content}`,
    );
  });
}

const HEAD_END = '\r\n\r\n';

/** Of the answer's head and body; Infinity as long as the head is not all there. */
function lengthOf(bytes: Buffer): number {
  const end = bytes.indexOf(HEAD_END);
  if (end < 0) return Number.POSITIVE_INFINITY;
  const length = /^content-length: *(\d+)\r?$/im.exec(bytes.toString('latin1', 0, end))?.[1];
  return length === undefined ? 0 : end + HEAD_END.length + Number(length);
}

/** undefined: it is no answer. */
function answerOf(bytes: Buffer): Answer | undefined {
  const status = /^HTTP\/1\.[01] (\d{3}) /.exec(bytes.toString('latin1', 0, 13))?.[1];
  const end = bytes.indexOf(HEAD_END);
  if (status === undefined || end < 0 || lengthOf(bytes) === 0) return undefined;
  return { status: Number(status), text: bytes.toString('utf8', end + HEAD_END.length) };
}

/** As for a connection that the other side has reset: the next server may take the request. */
function broken(): Error {
  return Object.assign(new Error('the connection ended before the answer'), { code: 'ECONNRESET' });
}
