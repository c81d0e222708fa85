import { type ChildProcess, spawn } from 'node:child_process';
import { closeFd, socketPair } from '../linux/index.js';
import { FdSocket } from './fd-socket.js';
import { logLine } from './log-line.js';
import type { KeeperMethods, ServerMethods } from './protocol.js';
import { Rpc } from './rpc.js';

/** A server process, from spawn to exit. */
export interface ServerProcess {
  readonly child: ChildProcess;
  readonly rpc: Rpc<ServerMethods>;
  readonly fds: FdSocket;
  /** Restored everything and answers. */
  serving: boolean;
  readonly exited: Promise<void>;
}

/**
 * Immediate respawns are tokens: a crash now and then costs no delay, and neither does somebody who kills the server
 * for fun (npm run torture: 100 times a minute); a server that dies on every request is slowed to one a second.
 */
const RESPAWN_TOKENS = 150;
const RESPAWN_REFILL_MS = 1000;
/** A server that dies before it serves: wait, twice as long each time. */
const MAX_BACK_OFF_MS = 5000;

/** Starts server processes, one after the other. */
export class Supervisor {
  readonly #settings: string;
  readonly #listenFd: number;
  readonly #handlers: (server: ServerProcess) => KeeperMethods;
  serverModule: string;
  current: ServerProcess | null = null;
  restarts = 0;
  #tokens = RESPAWN_TOKENS;
  #refilledAt = performance.now();
  #failures = 0;
  #timer: NodeJS.Timeout | null = null;
  #stopped = false;

  constructor(
    serverModule: string,
    settings: string,
    listenFd: number,
    handlers: (server: ServerProcess) => KeeperMethods,
  ) {
    this.serverModule = serverModule;
    this.#settings = settings;
    this.#listenFd = listenFd;
    this.#handlers = handlers;
  }

  /** Starts the server that is from now on the current one. */
  start(): ServerProcess {
    const server = this.spawn(this.serverModule);
    this.current = server;
    return server;
  }

  /** A server process beside the current one, which `adopt` makes current. */
  spawn(serverModule: string, handlers = this.#handlers): ServerProcess {
    const [ours, theirs] = socketPair('seqpacket', true);
    // Descriptors 4 and 5 of the child: LISTEN_FD and FDS_SOCKET_FD.
    const child = spawn(process.execPath, [serverModule, this.#settings], {
      stdio: ['ignore', 2, 2, 'ipc', this.#listenFd, theirs],
    });
    closeFd(theirs);
    const fds = new FdSocket(ours);
    const server: ServerProcess = {
      child,
      fds,
      serving: false,
      exited: new Promise((resolve) => {
        const end = () => {
          fds.close();
          resolve();
          if (this.current === server) this.#lost(server);
        };
        child.once('exit', end);
        child.once('error', (error) => {
          logLine('error', 'cannot start a server process', { error: error.message });
          if (child.pid === undefined) end();
        });
      }),
    } as Omit<ServerProcess, 'rpc'> as ServerProcess;
    (server as { rpc: Rpc<ServerMethods> }).rpc = new Rpc(child, handlers(server));
    return server;
  }

  adopt(server: ServerProcess, serverModule: string): void {
    this.current = server;
    this.serverModule = serverModule;
    this.#failures = 0;
  }

  /** No more servers. */
  halt(): void {
    this.#stopped = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
  }

  #lost(server: ServerProcess): void {
    this.current = null;
    if (this.#stopped) return;
    this.restarts++;
    this.#failures = server.serving ? 0 : this.#failures + 1;
    const delay = this.#delay();
    const { exitCode, signalCode, pid } = server.child;
    logLine('warn', 'the server process has ended, starting another', { pid, exitCode, signalCode, delay });
    if (delay === 0) this.start();
    else this.#timer = setTimeout(() => this.start(), delay);
  }

  #delay(): number {
    // The first failure is free: something may have hit it while it was starting.
    if (this.#failures > 1) return Math.min(MAX_BACK_OFF_MS, 100 * 2 ** (this.#failures - 2));
    const now = performance.now();
    const refill = Math.floor((now - this.#refilledAt) / RESPAWN_REFILL_MS);
    this.#tokens = Math.min(RESPAWN_TOKENS, this.#tokens + refill);
    this.#refilledAt += refill * RESPAWN_REFILL_MS;
    if (this.#tokens === 0) return RESPAWN_REFILL_MS;
    this.#tokens--;
    return 0;
  }
}
