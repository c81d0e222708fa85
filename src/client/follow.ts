import { type ClientRequest, request } from 'node:http';
import { connect } from 'node:net';
import { ClipError } from '../bytes/index.js';

/** An error's answer is small. */
const MAX_ERROR = 64 * 1024;

/** What is told until it ends. */
export interface ReadTrace {
  /** Resolves when no more lines will come: clipd has ended it, or the connection. */
  readonly ended: Promise<void>;
  stop(): void;
}

/**
 * A request whose answer is JSON lines, as they come. Resolves when the answer has begun.
 * @param onError makes an error of an answer that is none
 * @throws the socket's error
 */
export function follow(
  socketPath: string,
  path: string,
  onLine: (line: unknown) => void,
  onError: (text: string) => Error,
): Promise<ReadTrace> {
  return new Promise((resolve, reject) => {
    let end = (): void => {};
    const ended = new Promise<void>((done) => {
      end = done;
    });
    const outgoing: ClientRequest = request(
      { createConnection: () => connect(socketPath), method: 'GET', path },
      (response) => {
        response.setEncoding('utf8');
        let rest = '';
        const failed = response.statusCode !== 200;
        response.on('data', (chunk: string) => {
          rest += chunk;
          if (failed) {
            rest = rest.slice(0, MAX_ERROR);
            return;
          }
          const lines = rest.split('\n');
          rest = lines.pop()!;
          for (const line of lines) if (line !== '') onLine(parse(line));
        });
        response.on('error', () => end());
        response.on('close', () => {
          if (failed) reject(onError(rest));
          end();
        });
        if (!failed) resolve({ ended, stop: () => outgoing.destroy() });
      },
    );
    outgoing.on('error', (error) => {
      reject(error);
      end();
    });
    outgoing.end();
  });
}

function parse(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch (cause) {
    throw new ClipError('BAD_FORMAT', 'clipd gave a line that is not JSON', { cause });
  }
}
