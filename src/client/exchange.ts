import { request } from 'node:http';
import { connect } from 'node:net';

export interface Answer {
  readonly status: number;
  readonly text: string;
}

/**
 * One HTTP request over a unix socket, and a connection of its own for it: nothing keeps the caller's process alive.
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
    const outgoing = request(
      {
        // Not by socketPath: an agent would look for a TLS server name first (docs/benchmarks.md, "Why these constants").
        createConnection: () => connect(socketPath),
        signal,
        method,
        path,
        headers: body === undefined ? {} : { 'content-type': 'application/json' },
      },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString('utf8') });
        });
      },
    );
    outgoing.on('error', reject);
    outgoing.end(body === undefined ? undefined : JSON.stringify(body));
  });
}
