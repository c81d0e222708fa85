import { closeSync, constants, fstatSync, ftruncateSync, rmdirSync, rmSync, statSync, writeSync } from 'node:fs';
import { ClipError } from '../bytes/index.js';
import { closeFd, listenUnix, tryLock, unixSocket } from '../linux/index.js';
import { keepCodeSoon, leaveUnoptimized } from '../loader/index.js';
import { logLine } from '../metrics/index.js';
import { OwnDirectory } from '../paths/index.js';
import {
  type DaemonSettings,
  fromWireError,
  type HelloResult,
  JOURNAL_DIRECTORY,
  KEEPER_PROTOCOL,
  type KeeperMethods,
  LOCK_FILE,
  planeOf,
  rotateLog,
  SOCKET_NAME,
  SPARE_DIRECTORY,
  STATE_FILE,
} from '../wire/index.js';
import { ANCHORS, Connections, type HeldConnection } from './connections.js';
import { rootless } from './mounter.js';
import { bindWaiting, repair } from './repair.js';
import type { EarlyServer } from './server-program.js';
import { SpareClient } from './spare-client.js';
import { type ServerProcess, Supervisor } from './supervisor.js';

/** Whether places still exist is looked up this often; nothing tells us. */
const RECONCILE_MS = 5000;
const LOG_CHECK_MS = 5000;
/** Within 5 s of SIGTERM everything is gone: what the server may take, and then it is killed. */
const DRAIN_MS = 1500;
const KILL_MS = 3000;
/** A new version that is not up after this long is given up, and the old one goes on. */
const UPGRADE_MS = 20_000;

/**
 * The process that owns the mounts: it opens /dev/fuse, mounts, holds the descriptors and the list, and starts a server
 * process again when one dies. It never reads from a mount or looks up a path on one: it would wait for a server that it
 * has itself to start.
 */
export class Keeper {
  readonly #settings: DaemonSettings;
  readonly #root: OwnDirectory;
  readonly #lockFd: number;
  readonly #listenFd: number;
  readonly #connections: Connections;
  readonly #supervisor: Supervisor;
  readonly #spare: SpareClient;
  readonly #startedAt = Date.now();
  readonly #reconcileTimer: NodeJS.Timeout;
  readonly #logTimer: NodeJS.Timeout | null;
  #idleTimer: NodeJS.Timeout | null = null;
  /** What an earlier clipd left behind has been dealt with. */
  #repaired: Promise<void> = Promise.resolve();
  #stopping: Promise<void> | null = null;
  #served = false;
  #listIsOurs = false;
  readonly #serving: Promise<void>;
  #onServing: () => void = () => {};
  #onCannotServe: (error: Error) => void = () => {};
  readonly #ended: Promise<void>;
  #end: () => void = () => {};

  private constructor(
    settings: DaemonSettings,
    root: OwnDirectory,
    serverModule: string,
    lockFd: number,
    listenFd: number,
    ownLog: boolean,
    early: EarlyServer | null,
  ) {
    this.#settings = settings;
    this.#root = root;
    this.#lockFd = lockFd;
    this.#listenFd = listenFd;
    this.#connections = new Connections(root);
    this.#supervisor = new Supervisor({
      serverModule,
      settings,
      listenFd,
      launched: early === null ? null : { program: early.program, late: { environment: process.env, ownLog } },
      standby: settings.standby ?? true,
      handlers: (server) => this.#handlers(server),
      onStuck: () => this.#connections.abortUnfinished(),
    });
    this.#spare = new SpareClient(root.path, settings.standby !== false && settings.private !== true);
    this.#serving = new Promise((resolve, reject) => {
      this.#onServing = resolve;
      this.#onCannotServe = reject;
    });
    this.#serving.catch(() => {}); // perhaps no caller waits for it
    this.#reconcileTimer = setInterval(() => void this.#reconcile(), RECONCILE_MS).unref();
    this.#logTimer = ownLog ? setInterval(() => this.#rotateLog(), LOG_CHECK_MS).unref() : null;
    this.#ended = new Promise((resolve) => {
      this.#end = resolve;
    });
  }

  /**
   * Takes the root, brings back its mounts, listens and starts a server.
   * @param ownLog standard error is the log in the root: another is begun when it is large
   * @param early a server that has been launched, and the socket that it will listen on
   * @throws BUSY when another clipd has this root
   */
  static async start(
    settings: DaemonSettings,
    serverModule: string,
    ownLog: boolean,
    early: EarlyServer | null,
  ): Promise<Keeper> {
    const root = OwnDirectory.open(settings.root, { make: true });
    const lockFd = takeLock(root);
    if (lockFd === null) {
      root.close();
      throw new ClipError('BUSY', `a clipd runs with root ${settings.root} already`, {
        hint: 'clipctl daemon --stop ends it; another --root runs beside it',
      });
    }
    const socket = root.at(SOCKET_NAME);
    rmSync(socket, { force: true });
    const listenFd = early?.socket ?? unixSocket();
    listenUnix(listenFd, socket);
    const own = { ...settings, root: root.path };
    const keeper = new Keeper(own, root, serverModule, lockFd, listenFd, ownLog, early);
    // The server starts while we repair; it is told the connections when both are ready.
    keeper.#supervisor.start();
    keeper.#repaired = repair(root, keeper.#connections);
    try {
      await keeper.#repaired;
    } catch (error) {
      await keeper.stop();
      throw error;
    }
    keeper.#listIsOurs = true;
    keeper.#checkIdle();
    return keeper;
  }

  /** Resolves when everything is unmounted and the server gone. */
  get ended(): Promise<void> {
    return this.#ended;
  }

  /** Resolves when the first server serves; rejects when it cannot, and then everything ends. */
  serving(): Promise<void> {
    return this.#serving;
  }

  #rotateLog(): void {
    try {
      if (rotateLog(this.#root)) this.#supervisor.turnToLog();
    } catch (error) {
      // A log that goes on growing is no reason to end mounts. A disk that is full says so at each try, in a log that takes no line.
      logLine('keeper', 'warn', 'cannot begin another log', { error: (error as Error).message });
    }
  }

  #handlers(server: ServerProcess): KeeperMethods {
    const table = this.#connections;
    return {
      hello: async ({ protocol, version }): Promise<HelloResult> => {
        if (protocol !== KEEPER_PROTOCOL) {
          throw new ClipError(
            'CONFLICT',
            `server ${version} speaks keeper protocol ${protocol}, not ${KEEPER_PROTOCOL}`,
            {
              hint: 'end this clipd and start the new one: clipctl daemon --stop',
            },
          );
        }
        server.onHello(version);
        await server.admitted;
        await this.#repaired;
        return {
          connections: table.states,
          keeperPid: process.pid,
          restarts: this.#supervisor.restarts,
          startedAt: this.#startedAt,
          rootless,
          ...(rootless ? {} : { foreign: true }),
        };
      },
      serving: () => {
        this.#supervisor.onServing(server);
        this.#served = true;
        this.#onServing();
      },
      alive: () => {}, // the supervisor hears every message
      cannotServe: ({ error }) => {
        if (this.#served) return;
        this.#onCannotServe(fromWireError(error));
        void this.stop();
      },
      list: async () => {
        await this.#reconcile();
        return table.states;
      },
      take: ({ id }) => {
        const connection = table.get(id);
        const fdToken = server.fds.send([connection.fuseFd, connection.archiveFd]);
        const resumed = connection.resumed;
        connection.resumed = true;
        const carried = planeOf(connection.state).kind === 'fuse' || connection.image !== null;
        return { client: connection.client, resumed, carried, fdToken };
      },
      connect: async (request) => {
        const [archiveFd] = server.fds.take(request.fdToken) as [number];
        const connection: HeldConnection = await table.connect(request, archiveFd);
        connection.resumed = true;
        this.#checkIdle();
        keepCodeSoon(leaveUnoptimized);
        return { connection: connection.state, fdToken: server.fds.send([connection.fuseFd]) };
      },
      carry: async ({ id, fdToken, files }) => {
        const [mount] = server.fds.take(fdToken) as [number];
        const connection = table.carry(id, mount, files);
        bindWaiting(table, connection);
        return connection.state;
      },
      bind: ({ id, place, fdToken, client }) => {
        const [fd, parent] = server.fds.take(fdToken) as [number, number];
        this.#spare.want();
        return table.bind(id, place, { fd, parent }, client);
      },
      bindForeign: ({ id, place, fdToken, client }) => {
        const [fd, namespace] = server.fds.take(fdToken) as [number, number];
        try {
          return table.bindForeign(id, place, namespace, fd, client);
        } finally {
          closeFd(fd);
          closeFd(namespace);
        }
      },
      adopt: ({ id, place, client }) => table.adopt(id, place, client),
      unbind: async ({ path, mode }) => {
        this.#spare.want();
        return table.unbind(path, mode);
      },
      drop: async ({ id, reason }) => {
        if (reason !== null)
          logLine('keeper', 'error', 'a connection cannot be served and is unmounted', { id, reason });
        await table.drop(id);
        this.#checkIdle();
      },
      stop: ({ onlyIfIdle }) => {
        if (onlyIfIdle && table.size > 0) return { stopping: false };
        // The answer goes out first.
        setImmediate(() => void this.stop());
        return { stopping: true };
      },
      upgrade: ({ serverModule }) => this.#upgrade(serverModule),
      standby: () => ({ pid: this.#supervisor.standbyPid, client: this.#spare.pid }),
    };
  }

  async #reconcile(): Promise<void> {
    if (this.#stopping === null) await this.#connections.reconcile();
  }

  #checkIdle(): void {
    const { idleExit } = this.#settings;
    if (idleExit === undefined || this.#stopping !== null) return;
    if (this.#idleTimer !== null) clearTimeout(this.#idleTimer);
    this.#idleTimer = null;
    if (this.#connections.size > 0) return;
    this.#idleTimer = setTimeout(() => {
      if (this.#connections.size === 0) void this.stop();
    }, idleExit * 1000);
  }

  /**
   * A server of another version beside the old one: when it has loaded, the old one drains and exits, and only then does
   * the new one hear of the connections. Until that moment the old one serves; a new one that does not come up is given up.
   */
  async #upgrade(serverModule: string): Promise<{ version: string }> {
    const { version, finished } = await this.#supervisor.replace(serverModule, UPGRADE_MS, (old) =>
      this.#endServer(old),
    );
    // The old one passes this answer on to its client before it drains: its HTTP server is what the client talks to.
    setImmediate(finished);
    return { version };
  }

  async #endServer(server: ServerProcess): Promise<void> {
    const timer = setTimeout(() => server.child.kill('SIGKILL'), KILL_MS);
    void server.rpc.call('drain', { milliseconds: DRAIN_MS }).catch(() => {});
    await server.exited;
    clearTimeout(timer);
  }

  /** Unmounts everything, ends the server, removes what is on disk. Idempotent. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    const root = this.#root;
    this.#supervisor.halt();
    this.#spare.halt();
    clearInterval(this.#reconcileTimer);
    if (this.#logTimer !== null) clearInterval(this.#logTimer);
    if (this.#idleTimer !== null) clearTimeout(this.#idleTimer);
    // No new clients. The next clipd may start as soon as the lock is free.
    rmSync(root.at(SOCKET_NAME), { force: true });
    const server = this.#supervisor.current;
    this.#connections.abortUnfinished();
    await this.#connections.unmountAll();
    if (server !== null) await this.#endServer(server);
    this.#connections.closeAll();
    closeFd(this.#listenFd);
    // A list that was refused may belong to another version: it stays.
    if (this.#listIsOurs) rmSync(root.at(STATE_FILE), { force: true });
    for (const name of [JOURNAL_DIRECTORY, SPARE_DIRECTORY]) rmSync(root.at(name), { recursive: true, force: true });
    try {
      rmdirSync(root.at(ANCHORS));
    } catch {
      // never made, or an anchor is still used by a detached mount
    }
    rmSync(root.at(LOCK_FILE), { force: true });
    closeSync(this.#lockFd);
    if (this.#settings.private) rmSync(root.path, { recursive: true, force: true });
    root.close();
    this.#end();
  }
}

/** The lock file's descriptor, locked, with this process' id in the file; null when another process has it. */
function takeLock(root: OwnDirectory): number | null {
  for (;;) {
    const fd = root.open(LOCK_FILE, constants.O_RDWR | constants.O_CREAT);
    if (!tryLock(fd)) {
      closeSync(fd);
      return null;
    }
    // The owner before us removes the file as it leaves: what we have locked may no longer be what others will find.
    if (statSync(root.at(LOCK_FILE), { throwIfNoEntry: false })?.ino === fstatSync(fd).ino) {
      noteKeeper(fd);
      return fd;
    }
    closeSync(fd);
  }
}

/** For `clipctl daemon --stop` where no server answers. A full disk is no reason not to serve. */
function noteKeeper(lock: number): void {
  try {
    ftruncateSync(lock);
    writeSync(lock, `${process.pid}\n`);
  } catch {
    // then it cannot be ended that way
  }
}
