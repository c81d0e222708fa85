import { type ChildProcess, spawn } from 'node:child_process';
import { ClipError } from '../bytes/index.js';
import { closeFd, socketPair } from '../linux/index.js';
import {
  FdSocket,
  type KeeperMethods,
  Rpc,
  restoreExtraCertificates,
  SETTINGS_VARIABLE,
  type ServerMethods,
} from '../wire/index.js';
import { logLine } from './log-line.js';

/** A server process, from spawn to exit. */
export interface ServerProcess {
  readonly child: ChildProcess;
  readonly rpc: Rpc<ServerMethods>;
  readonly fds: FdSocket;
  /** Its version, once it has loaded everything and asks to be let in. */
  readonly ready: Promise<string>;
  /** It said hello: resolves `ready`. */
  readonly onHello: (version: string) => void;
  /** Resolves when it is its turn: nobody else serves. */
  readonly admitted: Promise<void>;
  readonly admit: () => void;
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
/** A standby that dies is not replaced in a hurry. */
const STANDBY_RETRY_MS = 5000;
/** Nor does the first one compete with whatever the freshly mounted image is for. */
const FIRST_STANDBY_MS = 2000;

/**
 * A server moves buffers and makes few objects, so it needs little room for new ones in its isolates. `--expose-gc`: the server tells V8
 * when a tree in shared memory has gone (docs/benchmarks.md, "Why these constants").
 */
const NODE_FLAGS = ['--max-semi-space-size=1', '--expose-gc'];
/**
 * One heap for all threads: glibc gives each thread its own, which grows and is never returned. Threads that answer reads allocate
 * nothing, so they do not contend for it (docs/benchmarks.md, "Why these constants").
 */
const MALLOC = { MALLOC_ARENA_MAX: '1' };

export interface SupervisorOptions {
  readonly serverModule: string;
  /** In the servers' environment, as SETTINGS_VARIABLE. */
  readonly settings: string;
  readonly listenFd: number;
  /** Servers make connections with Node's own TLS settings: to a content cache. */
  readonly nodeTls: boolean;
  /**
   * Keep a second server process that has loaded and waits: taking over then takes a tenth of the time. It has no
   * descriptors, no cache and no image; it costs the memory of a bare process with its threads.
   */
  readonly standby: boolean;
  handlers(server: ServerProcess): KeeperMethods;
}

interface Deferred<T> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
}

/** Promise.withResolvers of Node 22. */
function deferred<T>(): Deferred<T> {
  let resolve: (value: T) => void = () => {};
  const promise = new Promise<T>((r) => {
    resolve = r;
  });
  return { promise, resolve };
}

/** Starts server processes; one at a time serves. */
export class Supervisor {
  readonly #options: SupervisorOptions;
  #serverModule: string;
  current: ServerProcess | null = null;
  restarts = 0;
  #standby: ServerProcess | null = null;
  #standbyTimer: NodeJS.Timeout | null = null;
  #tokens = RESPAWN_TOKENS;
  #refilledAt = performance.now();
  #failures = 0;
  #timer: NodeJS.Timeout | null = null;
  #stopped = false;

  constructor(options: SupervisorOptions) {
    this.#options = options;
    this.#serverModule = options.serverModule;
  }

  /** Lets a server in, the one that waits if there is one. */
  start(): void {
    const server = this.#standby ?? this.#spawn(this.#serverModule);
    this.#standby = null;
    this.current = server;
    server.admit();
  }

  /** The current server has restored everything. */
  onServing(server: ServerProcess): void {
    server.serving = true;
    this.#failures = 0;
    this.#wantStandby(this.restarts === 0 ? FIRST_STANDBY_MS : 0);
  }

  get standbyPid(): number | null {
    return this.#standby?.child.pid ?? null;
  }

  #wantStandby(delay: number): void {
    if (!this.#options.standby || this.#stopped || this.#standby !== null || this.#standbyTimer !== null) return;
    this.#standbyTimer = setTimeout(() => {
      this.#standbyTimer = null;
      if (this.#stopped || this.#standby !== null) return;
      this.#standby = this.#spawn(this.#serverModule);
    }, delay).unref();
  }

  #dropStandby(): void {
    if (this.#standbyTimer !== null) clearTimeout(this.#standbyTimer);
    this.#standbyTimer = null;
    const standby = this.#standby;
    this.#standby = null;
    standby?.child.kill('SIGKILL');
  }

  /**
   * Puts another version in the place of the current server. `end` is called when the new one has loaded: it must resolve
   * when the old one is gone. @throws ClipError when the new one does not come up; the old one then goes on
   */
  async replace(
    serverModule: string,
    timeoutMs: number,
    end: (old: ServerProcess) => Promise<void>,
  ): Promise<{ version: string; finished: () => void }> {
    const incoming = this.#spawn(serverModule);
    let timer: NodeJS.Timeout | undefined;
    let version: string;
    try {
      version = await Promise.race([
        incoming.ready,
        incoming.exited.then(() =>
          Promise.reject(new ClipError('SYSTEM', `${serverModule} ended before it was ready`)),
        ),
        new Promise<never>((_, reject) => {
          timer = setTimeout(() => reject(new ClipError('SYSTEM', `${serverModule} was not ready in time`)), timeoutMs);
        }),
      ]);
    } catch (error) {
      incoming.child.kill('SIGKILL');
      throw error;
    } finally {
      clearTimeout(timer);
    }
    return {
      version,
      finished: () => {
        const old = this.current;
        this.current = incoming;
        this.#serverModule = serverModule;
        this.#dropStandby();
        void (old === null ? Promise.resolve() : end(old)).then(() => incoming.admit());
      },
    };
  }

  #spawn(serverModule: string): ServerProcess {
    const [ours, theirs] = socketPair('seqpacket', true);
    // Descriptors 4 and 5 of the child: LISTEN_FD and FDS_SOCKET_FD.
    const env = { ...process.env, ...MALLOC, [SETTINGS_VARIABLE]: this.#options.settings };
    if (this.#options.nodeTls) restoreExtraCertificates(env);
    const child = spawn(process.execPath, [...NODE_FLAGS, serverModule], {
      env,
      stdio: ['ignore', 2, 2, 'ipc', this.#options.listenFd, theirs],
    });
    closeFd(theirs);
    const fds = new FdSocket(ours);
    const ready = deferred<string>();
    const admitted = deferred<void>();
    const exited = deferred<void>();
    // Rpc wants the methods, the methods want the server: they are made by its first message.
    let methods: KeeperMethods | null = null;
    const rpc = new Rpc<ServerMethods>(child, (name) => {
      methods ??= this.#options.handlers(server);
      return methods[name as keyof KeeperMethods];
    });
    const server: ServerProcess = {
      child,
      rpc,
      fds,
      ready: ready.promise,
      onHello: ready.resolve,
      admitted: admitted.promise,
      admit: () => admitted.resolve(undefined),
      serving: false,
      exited: exited.promise,
    };
    const end = (): void => {
      fds.close();
      exited.resolve(undefined);
      this.#lost(server);
    };
    child.once('exit', end);
    child.once('error', (error) => {
      logLine('error', 'cannot start a server process', { error: error.message });
      if (child.pid === undefined) end();
    });
    return server;
  }

  /** No more servers. */
  halt(): void {
    this.#stopped = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#dropStandby();
  }

  #lost(server: ServerProcess): void {
    if (this.#stopped) return;
    if (server === this.#standby) {
      this.#standby = null;
      this.#wantStandby(STANDBY_RETRY_MS);
      return;
    }
    if (server !== this.current) return;
    this.current = null;
    this.restarts++;
    if (!server.serving) this.#failures++;
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
