import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { ClipError, type ErrorCode } from '../../bytes/index.js';
import { peerCredentials } from '../../linux/index.js';
import type { ErrorReply } from '../../wire/index.js';
import { toWireError } from '../../wire/index.js';

/** A request body: a mount with credentials and CA certificates is some hundred KiB at most. */
const MAX_BODY = 4 * 1024 * 1024;

const STATUS: Partial<Record<ErrorCode, number>> = {
  USAGE: 400,
  UNAUTHORIZED: 401,
  PERMISSION: 403,
  NOT_FOUND: 404,
  BUSY: 409,
  CONFLICT: 409,
  BAD_FORMAT: 422,
};

/** Handles one route: gets the parsed body (undefined for GET) and the query, returns the JSON answer. */
export type Route = (body: unknown, query: URLSearchParams, signal: AbortSignal) => unknown;

/** An answer that is not JSON. */
export class TextReply {
  constructor(
    readonly contentType: string,
    readonly text: string,
  ) {}
}

/** An answer of JSON lines, one by one as they come, until `end` or until the client has gone. */
export class LinesReply {
  constructor(readonly begin: (write: LineWriter) => void) {}
}

export interface LineWriter {
  line(value: object): void;
  end(): void;
  /** Bytes that the client has not taken yet. */
  readonly untaken: number;
}

function sendLines(response: ServerResponse, reply: LinesReply): void {
  response.writeHead(200, { 'content-type': 'application/x-ndjson' });
  // The client knows now that every read from here on is told.
  response.flushHeaders();
  reply.begin({
    line: (value) => void response.write(`${JSON.stringify(value)}\n`),
    end: () => void response.end(),
    get untaken() {
      return response.writableLength;
    },
  });
}

/** The one parameter that some requests have. @throws ClipError USAGE */
export function mountPointOf(query: URLSearchParams): string {
  const mountPoint = query.get('mountPoint') ?? '';
  if (mountPoint.startsWith('/') && [...query.keys()].length === 1) return mountPoint;
  throw new ClipError('USAGE', 'request: ?mountPoint= must be an absolute path, and the only parameter');
}

async function readBody(request: IncomingMessage): Promise<unknown> {
  if (request.method === 'GET') return undefined;
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > MAX_BODY) throw new ClipError('LIMIT', `request body of more than ${MAX_BODY} bytes`);
    chunks.push(chunk);
  }
  try {
    return length === 0 ? {} : JSON.parse(Buffer.concat(chunks).toString('utf8'));
  } catch (cause) {
    throw new ClipError('USAGE', 'request body is not JSON', { cause });
  }
}

/** A path of the API, asked for with a method that it does not take. */
class MethodNotAllowed extends ClipError {
  constructor(
    asked: string,
    readonly allow: string,
  ) {
    super('USAGE', `${asked}: this path takes ${allow}`);
  }
}

function routeFor(routes: Readonly<Record<string, Route>>, method: string, path: string): Route {
  const asked = `${method} ${path}`;
  const route = routes[asked];
  if (route !== undefined) return route;
  const takes = Object.keys(routes)
    .map((key) => key.split(' ') as [string, string])
    .flatMap(([takenMethod, takenPath]) => (takenPath === path ? [takenMethod] : []));
  if (takes.length > 0) throw new MethodNotAllowed(asked, takes.sort().join(', '));
  throw new ClipError('NOT_FOUND', `no ${asked} in this clipd's API`, {
    hint: 'client and clipd are of different versions: clipctl daemon --upgrade',
  });
}

function send(response: ServerResponse, status: number, value: unknown, headers: Record<string, string> = {}): void {
  const isText = value instanceof TextReply;
  const text = isText ? value.text : `${JSON.stringify(value)}\n`;
  const length = Buffer.byteLength(text);
  const type = isText ? value.contentType : 'application/json';
  response.writeHead(status, { 'content-type': type, 'content-length': length, ...headers });
  response.end(text);
}

function sendError(response: ServerResponse, error: unknown): void {
  const reply: ErrorReply = { error: toWireError(error) };
  if (error instanceof MethodNotAllowed) send(response, 405, reply, { allow: error.allow });
  else send(response, (error instanceof ClipError && STATUS[error.code]) || 500, reply);
}

/**
 * Whether a connection comes from this user or root. The socket's directory already lets no other user in; this check also holds when a user has
 * opened it to others, or has handed a connection on.
 */
function isAllowed(socket: Socket): boolean {
  // Node tells nothing of a peer; its handle has the descriptor.
  const fd = (socket as unknown as { _handle?: { fd?: number } })._handle?.fd;
  if (fd === undefined || fd < 0) return false;
  try {
    const { uid } = peerCredentials(fd);
    return uid === 0 || uid === process.geteuid?.();
  } catch {
    return false; // it has gone
  }
}

/** JSON over HTTP on a unix socket, for this user and root; `routes` by "METHOD /path". */
export function createApiServer(routes: Readonly<Record<string, Route>>, onFault: (error: unknown) => void): Server {
  const server = createRouteServer(routes, onFault);
  server.on('connection', (socket) => {
    if (!isAllowed(socket)) socket.destroy();
  });
  return server;
}

/** The same for every client that can connect. */
export function createRouteServer(routes: Readonly<Record<string, Route>>, onFault: (error: unknown) => void): Server {
  const server = createServer((request, response) => {
    const gone = new AbortController();
    response.on('close', () => gone.abort());
    void (async () => {
      try {
        const url = new URL(request.url ?? '/', 'http://clipd');
        const route = routeFor(routes, request.method ?? 'GET', url.pathname);
        const reply = await route(await readBody(request), url.searchParams, gone.signal);
        if (reply instanceof LinesReply) sendLines(response, reply);
        else send(response, 200, reply);
      } catch (error) {
        // A client that closed its connection in the middle of a request gets no answer, and it is no error.
        if (response.destroyed) return;
        if (!(error instanceof ClipError)) onFault(error);
        if (!response.headersSent) sendError(response, error);
      }
    })();
  });
  // A client that closes its connection during an answer is no error.
  server.on('clientError', (_error, socket) => socket.destroy());
  return server;
}
