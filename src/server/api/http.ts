import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { ClipError, type ErrorCode } from '../../bytes/index.js';
import { peerCredentials } from '../../linux/index.js';
import type { ErrorReply } from '../../wire/index.js';
import { foreignName, isPlaceName, toWireError } from '../../wire/index.js';
import { foreignNamespaceOf } from '../foreign-caller.js';

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

/** The process at the other end of a connection. */
export interface ApiCaller {
  /** The connection's descriptor. */
  readonly socket: number;
  /** Its mount namespace, "mnt:[4026532281]", if that is another one than ours. Places that it names are its own. */
  readonly foreign: string | null;
}

/** Handles one route: gets the parsed body (undefined for GET) and the query, returns the JSON answer. */
export type Route = (body: unknown, query: URLSearchParams, signal: AbortSignal, caller: ApiCaller) => unknown;

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
  if (isPlaceName(mountPoint) && [...query.keys()].length === 1) return mountPoint;
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

interface SendOptions {
  readonly headers?: Record<string, string>;
  readonly foreign: string | null;
}

function send(response: ServerResponse, status: number, value: unknown, { headers, foreign }: SendOptions): void {
  const isText = value instanceof TextReply;
  const json = isText ? '' : `${JSON.stringify(value)}\n`;
  // The caller's own places, as it says them.
  const text = isText ? value.text : foreign === null ? json : json.replaceAll(`${foreign}/`, '/');
  const length = Buffer.byteLength(text);
  const type = isText ? value.contentType : 'application/json';
  response.writeHead(status, { 'content-type': type, 'content-length': length, ...headers });
  response.end(text);
}

function sendError(response: ServerResponse, error: unknown, foreign: string | null): void {
  const reply: ErrorReply = { error: toWireError(error) };
  if (error instanceof MethodNotAllowed) send(response, 405, reply, { headers: { allow: error.allow }, foreign });
  else send(response, (error instanceof ClipError && STATUS[error.code]) || 500, reply, { foreign });
}

/** Node tells nothing of a peer; its handle has the descriptor. */
function descriptorOf(socket: Socket): number {
  return (socket as unknown as { _handle?: { fd?: number } })._handle?.fd ?? -1;
}

const callers = new WeakMap<Socket, ApiCaller>();

function callerOf(socket: Socket): ApiCaller {
  let caller = callers.get(socket);
  if (caller === undefined) {
    const fd = descriptorOf(socket);
    caller = { socket: fd, foreign: foreignNamespaceOf(fd) };
    callers.set(socket, caller);
  }
  return caller;
}

/** Paths that a caller of another mount namespace gives are of that namespace. */
function sayForeign(foreign: string, body: unknown, query: URLSearchParams): unknown {
  const asked = query.get('mountPoint');
  if (asked?.startsWith('/')) query.set('mountPoint', foreignName(foreign, asked));
  const { mountPoint } = (body ?? {}) as { mountPoint?: unknown };
  if (typeof mountPoint !== 'string' || !mountPoint.startsWith('/')) return body;
  return { ...(body as object), mountPoint: foreignName(foreign, mountPoint) };
}

/**
 * Whether a connection comes from this user or root. The socket's directory already lets no other user in; this check also holds when a user has
 * opened it to others, or has handed a connection on.
 */
function isAllowed(socket: Socket): boolean {
  try {
    const { uid } = peerCredentials(descriptorOf(socket));
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
      const caller = callerOf(request.socket);
      const { foreign } = caller;
      try {
        const url = new URL(request.url ?? '/', 'http://clipd');
        const route = routeFor(routes, request.method ?? 'GET', url.pathname);
        const given = await readBody(request);
        const body = foreign === null ? given : sayForeign(foreign, given, url.searchParams);
        const reply = await route(body, url.searchParams, gone.signal, caller);
        if (reply instanceof LinesReply) sendLines(response, reply);
        else send(response, 200, reply, { foreign });
      } catch (error) {
        // A client that closed its connection in the middle of a request gets no answer, and it is no error.
        if (response.destroyed) return;
        if (!(error instanceof ClipError)) onFault(error);
        if (!response.headersSent) sendError(response, error, foreign);
      }
    })();
  });
  // A client that closes its connection during an answer is no error.
  server.on('clientError', (_error, socket) => socket.destroy());
  return server;
}
