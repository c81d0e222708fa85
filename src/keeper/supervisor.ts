import { ClipError } from '../bytes/index.js';
import { logLine } from '../metrics/index.js';
import {
  type DaemonSettings,
  FdSocket,
  type KeeperMethods,
  Rpc,
  type ServerMethods,
  type ServerStart,
} from '../wire/index.js';
import { RespawnPacing } from './respawn-pacing.js';
import { launchServer, type ServerProgram, startServer } from './server-program.js';

/** A server process, from spawn to exit. */
export interface ServerProcess {
  readonly child: ServerProgram['child'];
  readonly rpc: Rpc<ServerMethods>;
  readonly fds: FdSocket;
  /** Its version, once it has loaded everything and asks to be let in. */
  readonly ready: Promise<string>;
  /** It said hello: resolves `ready`. */
  readonly onHello: (version: string) => void;
  /** Resolves when it is its turn: no other process serves. */
  readonly admitted: Promise<void>;
  readonly admit: () => void;
  /** Restored everything and answers. */
  serving: boolean;
  /** Said hello. */
  loaded: boolean;
  /** When it last said anything (performance.now). */
  heardAt: number;
  readonly exited: Promise<void>;
}

/**
 * A server says every few seconds that it lives (`alive`). One that has said nothing for this long hangs: it would never
 * answer readers, nor end by itself. Longer than any step that keeps a server's main thread busy (parsing a large archive).
 */
const SILENT_MS = 15_000;
const CHECK_MS = 3000;
/** A standby that dies is not replaced in a hurry. */
const STANDBY_RETRY_MS = 5000;
/** Nor does the first one compete with whatever the freshly mounted image is for. */
const FIRST_STANDBY_MS = 2000;

export interface SupervisorOptions {
  readonly serverModule: string;
  readonly settings: DaemonSettings;
  readonly listenFd: number;
  /** A server that was launched already, for the first start. */
  readonly launched: { readonly program: ServerProgram; readonly late: NonNullable<ServerStart['late']> } | null;
  /**
   * Keep a second server process that has loaded and waits: taking over then takes a tenth of the time. It has no
   * descriptors, no cache and no image; it costs the memory of a bare process with its threads.
   */
  readonly standby: boolean;
  handlers(server: ServerProcess): KeeperMethods;
  /**
   * A killed server does not end: one of its threads waits in the kernel. It may be making a mount of its own that asks for the layers'
   * files, which no server will answer.
   */
  onStuck(): void;
}

/** Node reads its certificates as it starts. */
function needsNodeTls({ contentCache }: DaemonSettings): boolean {
  return contentCache !== undefined;
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
  readonly #running = new Set<ServerProcess>();
  restarts = 0;
  #standby: ServerProcess | null = null;
  #standbyTimer: NodeJS.Timeout | null = null;
  readonly #pacing = new RespawnPacing(performance.now());
  readonly #silence: NodeJS.Timeout;
  #checkedAt = performance.now();
  #timer: NodeJS.Timeout | null = null;
  #stopped = false;
  #tookLaunched = false;

  constructor(options: SupervisorOptions) {
    this.#options = options;
    this.#serverModule = options.serverModule;
    this.#silence = setInterval(() => this.#endSilent(), CHECK_MS).unref();
  }

  /** Lets a server in, the one that waits if there is one. */
  start(): void {
    const server = this.#standby ?? this.#takeLaunched() ?? this.#spawn(this.#serverModule);
    this.#standby = null;
    this.current = server;
    server.heardAt = performance.now();
    server.admit();
  }

  /** The current server has restored everything. */
  onServing(server: ServerProcess): void {
    server.serving = true;
    this.#pacing.succeeded();
    this.#wantStandby(this.restarts === 0 ? FIRST_STANDBY_MS : 0);
  }

  /** Of the server in reserve, once it has loaded everything. */
  get standbyPid(): number | null {
    return this.#standby?.loaded === true ? (this.#standby.child.pid ?? null) : null;
  }

  #wantStandby(delay: number): void {
    if (!this.#options.standby || this.#stopped || this.#standby !== null || this.#standbyTimer !== null) return;
    this.#standbyTimer = setTimeout(() => {
      this.#standbyTimer = null;
      if (this.#stopped || this.#standby !== null) return;
      this.#standby = this.#spawn(this.#serverModule, true);
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

  #spawn(serverModule: string, inReserve = false): ServerProcess {
    const { settings, listenFd } = this.#options;
    const program = launchServer(serverModule, listenFd, needsNodeTls(settings));
    startServer(program, { settings, inReserve });
    return this.#watch(program);
  }

  /** The server that was launched before this process had its settings; null: there is none that can serve. */
  #takeLaunched(): ServerProcess | null {
    const { settings, launched } = this.#options;
    if (launched === null || this.#tookLaunched) return null;
    this.#tookLaunched = true;
    const { child } = launched.program;
    if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return null;
    if (needsNodeTls(settings)) {
      child.kill('SIGKILL');
      return null;
    }
    startServer(launched.program, { settings, inReserve: false, late: launched.late });
    return this.#watch(launched.program);
  }

  #watch({ child, fdsSocket }: ServerProgram): ServerProcess {
    const fds = new FdSocket(fdsSocket);
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
      onHello: (version) => {
        server.loaded = true;
        ready.resolve(version);
      },
      admitted: admitted.promise,
      admit: () => admitted.resolve(undefined),
      serving: false,
      loaded: false,
      heardAt: performance.now(),
      exited: exited.promise,
    };
    this.#running.add(server);
    const end = (): void => {
      this.#running.delete(server);
      fds.close();
      exited.resolve(undefined);
      this.#lost(server);
    };
    child.on('message', () => {
      server.heardAt = performance.now();
    });
    child.once('exit', end);
    child.once('error', (error) => {
      logLine('keeper', 'error', 'cannot start a server process', { error: error.message });
      if (child.pid === undefined) end();
    });
    return server;
  }

  /** Another log has been begun. A server that starts now has it; the others are told. */
  turnToLog(): void {
    for (const { rpc } of this.#running) void rpc.call('turnToLog', null).catch(() => {}); // it is ending
  }

  /** Kills the current server if it hangs: the next one takes its requests over. */
  #endSilent(): void {
    const now = performance.now();
    const paused = now - this.#checkedAt > 2 * CHECK_MS;
    this.#checkedAt = now;
    const server = this.current;
    if (server === null) return;
    // Then this process has slept (SIGSTOP, a busy machine), and what the server has said meanwhile is not read yet.
    if (paused) server.heardAt = now;
    if (now - server.heardAt <= SILENT_MS) return;
    if (server.child.killed) {
      this.#options.onStuck();
      return;
    }
    const seconds = Math.round((now - server.heardAt) / 1000);
    logLine('keeper', 'error', 'the server process has fallen silent and is killed', {
      pid: server.child.pid,
      seconds,
    });
    server.child.kill('SIGKILL');
  }

  /** No more servers. */
  halt(): void {
    this.#stopped = true;
    clearInterval(this.#silence);
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
    const delay = this.#pacing.ended(server.serving, performance.now());
    const { exitCode, signalCode, pid } = server.child;
    logLine('keeper', 'warn', 'the server process has ended, starting another', { pid, exitCode, signalCode, delay });
    if (delay === 0) this.start();
    else this.#timer = setTimeout(() => this.start(), delay);
  }
}
