import { type ChildProcess, spawn } from 'node:child_process';
import { closeFd, socketPair, unixSocket } from '../linux/index.js';
import { ADOPTED, restoreExtraCertificates, SERVER_ENVIRONMENT, type ServerStart } from '../wire/index.js';
import { AdoptedServer } from './adopted-server.js';

/** A server program that boots, and waits until it is told what to serve. */
export interface ServerProgram {
  readonly child: ChildProcess | AdoptedServer;
  /** Our end of the socket for descriptors. */
  readonly fdsSocket: number;
}

/**
 * @param listenFd the socket on which clients ask; it need not listen yet
 * @param nodeTls  it will make connections with Node's own TLS settings: to a content cache
 */
export function launchServer(serverModule: string, listenFd: number, nodeTls: boolean): ServerProgram {
  const [ours, theirs] = socketPair('seqpacket', true);
  const env: NodeJS.ProcessEnv = { ...process.env, ...SERVER_ENVIRONMENT };
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

/** The server that a shell has started before it became this process. */
export function adoptEarly(pid: number): EarlyServer {
  return {
    program: { child: new AdoptedServer(pid, ADOPTED.channel), fdsSocket: ADOPTED.fds },
    socket: ADOPTED.listen,
  };
}

export function launchEarly(serverModule: string): EarlyServer {
  const socket = unixSocket();
  return { program: launchServer(serverModule, socket, false), socket };
}
