import { type ChildProcess, spawn } from 'node:child_process';
import { closeFd, socketPair, unixSocket } from '../linux/index.js';
import { restoreExtraCertificates, type ServerStart } from '../wire/index.js';

/**
 * One heap for all threads: glibc gives each thread its own, which grows and is never returned. Threads that answer reads allocate
 * nothing, so they do not contend for it (docs/benchmarks.md, "Why these constants").
 */
const MALLOC = { MALLOC_ARENA_MAX: '1' };

/** A server program that boots, and waits until it is told what to serve. */
export interface ServerProgram {
  readonly child: ChildProcess;
  /** Our end of the socket for descriptors. */
  readonly fdsSocket: number;
}

/**
 * @param listenFd the socket on which clients ask; it need not listen yet
 * @param nodeTls  it will make connections with Node's own TLS settings: to a content cache
 */
export function launchServer(serverModule: string, listenFd: number, nodeTls: boolean): ServerProgram {
  const [ours, theirs] = socketPair('seqpacket', true);
  const env: NodeJS.ProcessEnv = { ...process.env, ...MALLOC };
  if (nodeTls) restoreExtraCertificates(env);
  const child = spawn(process.execPath, [serverModule], {
    env,
    // Descriptors 4 and 5 of the child: LISTEN_FD and FDS_SOCKET_FD.
    stdio: ['ignore', 'ignore', 2, 'ipc', listenFd, theirs],
  });
  child.on('error', () => {}); // a child without a pid says it as well
  closeFd(theirs);
  return { child, fdsSocket: ours };
}

/** Tells a server what to serve. */
export function startServer({ child }: ServerProgram, start: ServerStart): void {
  child.send(start, () => {}); // its exit says more
}

/** What a keeper makes before it knows its settings: a server that boots meanwhile, and the socket that it will listen on. */
export interface EarlyServer {
  readonly program: ServerProgram;
  readonly socket: number;
}

export function launchEarly(serverModule: string): EarlyServer {
  const socket = unixSocket();
  return { program: launchServer(serverModule, socket, false), socket };
}
