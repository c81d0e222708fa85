import { ClipError, loadCrc64 } from '../bytes/index.js';
import { FusePool } from '../fuse/index.js';
import { dieWithParent } from '../linux/index.js';
import { type Logger, logLine, type Metrics, openTelemetry, wantsTelemetry } from '../metrics/index.js';
import { OwnDirectory } from '../paths/index.js';
import {
  ALIVE_MS,
  type DaemonSettings,
  FDS_SOCKET_FD,
  FdSocket,
  KEEPER_PROTOCOL,
  type KeeperMethods,
  Rpc,
  restoreExtraCertificates,
  type ServerMethods,
  type ServerStart,
  toWireError,
  turnToLog,
} from '../wire/index.js';
import type { Engine } from './engine.js';
import type { MountList } from './mount-list.js';

/** For this long the cores are left to a first mount and its program. A server that waits in reserve has no hurry either. */
const FIRST_USE_MS = 2000;

export interface ServerProcessContext {
  readonly server: MountList;
  readonly settings: DaemonSettings;
  readonly log: Logger;
  readonly metrics: Metrics;
}

/**
 * The whole life of a server process but its API: ties this process to the keeper that spawned it, takes over its
 * connections, and ends when the keeper says so or has ended.
 *
 * The order makes readers of a killed server, and a first mount, wait less: a FUSE thread boots on one core while this thread loads the
 * engine on another, and both before the keeper says what to serve. Parts that only misses need are loaded after the connections are answered.
 * @param told what to serve; a keeper that is not needed ends before it says anything
 * @param closeApi called first when the keeper wants this server to end: no more requests
 */
export async function runServer(
  told: Promise<ServerStart>,
  version: string,
  closeApi: () => Promise<void>,
): Promise<ServerProcessContext> {
  process.title = 'clipd server';
  // Without its keeper a server is nothing: mounts belong to the next clipd.
  dieWithParent('SIGKILL');
  process.on('disconnect', endNow);
  // The keeper may have been killed already: a server that stayed would hold the socket on which clients wait for ever.
  if (!process.connected) process.exit(0);
  // Ctrl-C in a terminal goes to the whole group; the keeper decides what happens.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => {});

  let engine: Engine | null = null;
  let server: MountList | null = null;
  let log: Logger | null = null;
  /** A broken process would never answer its requests, so it ends, and the next one asks the kernel for them again. */
  const die = (err: unknown, message: string): void => {
    logLine('server', 'fatal', message, { error: String((err as Error | null)?.stack ?? err) });
    endNow();
  };
  process.on('uncaughtException', (err) => die(err, 'this server process ends'));

  const fuse = new FusePool({
    onMiss: (miss) => engine?.mounts.get(miss.mountId)?.miss(miss),
    onInterrupt: (id, unique) => engine?.mounts.get(id)?.reads.interrupt(unique) ?? false,
    onGone: (id) => void server?.gone(id),
    onFault: (id, cause) => log?.error({ mount: id, cause }, 'a request was answered with EIO'),
    onFailure: (error) => die(error, 'a FUSE worker died: this server process ends'),
  });
  const complete = (): void => {
    completeFuse();
    // If the files are gone, the next server waits until they are there.
    loadTheRest(log).catch((error: unknown) =>
      die(error, "this version's files are incomplete: this server process ends"),
    );
  };
  const completeFuse = (): void => void fuse.complete().catch(() => {}); // onFailure
  const fuseStarted = fuse.start();
  fuseStarted.catch(() => {}); // onFailure; attach() waits for it
  const loading = Promise.all([import('./engine.js'), import('./mount-list.js')]);
  loading.catch(() => {}); // awaited below

  const { settings, inReserve, late } = await told;
  Object.assign(process.env, late?.environment);
  // For credential helpers, and for connections that the keeper restored without a client's credentials.
  restoreExtraCertificates(process.env);
  if (late?.ownLog) logToRoot(settings.root);
  fuse.configure({
    ...(settings.workers === undefined ? {} : { workers: settings.workers }),
    ...(settings.resend === undefined ? {} : { resend: settings.resend }),
  });
  setTimeout(complete, FIRST_USE_MS);

  const fds = new FdSocket(FDS_SOCKET_FD);
  const methods = {
    drain: async ({ milliseconds }: { milliseconds: number }) => {
      await closeApi();
      await engine?.drain(milliseconds);
      process.exit(0);
    },
    turnToLog: () => logToRoot(settings.root),
  } satisfies ServerMethods;
  const keeper = new Rpc<KeeperMethods>(process, (name) => methods[name as keyof ServerMethods]);
  setInterval(() => void keeper.call('alive', null).catch(() => {}), ALIVE_MS);
  try {
    const [parts, { MountList }] = await loading;
    const ownLog = parts.lazyLogger({ name: 'server', level: settings.logLevel ?? 'info' });
    log = ownLog;
    const metrics = new parts.Metrics();
    if (inReserve) await Promise.all([loadTheRest(ownLog), fuseStarted]);
    // Everything is loaded: from here on a server in reserve waits for its turn.
    const hello = await keeper.call('hello', { protocol: KEEPER_PROTOCOL, version });
    engine = await parts.Engine.start({ settings, log, metrics }, fuse);
    // Its SDK takes a while to load; a server that is watched so closely takes it before it serves, and misses no span.
    if (wantsTelemetry()) {
      engine.telemetry = await openTelemetry('clipd', version, (message, hint) => ownLog.error({ hint }, message));
    }
    server = new MountList(hello, engine, { keeper, fds }, log);
    const startMs = Math.round(performance.now());
    await server.restore();
    const readyMs = Math.round(performance.now());
    const running = engine;
    const connections = hello.connections.length;
    const settle = (): void => {
      const threads = Promise.all([fuse.complete().catch(() => {}), running.complete()]); // onFailure
      ownLog.info({ restarts: hello.restarts, connections, startMs, readyMs }, 'serving');
      void threads.then(() => ownLog.debug('all threads are there'));
    };
    if (connections > 0) setTimeout(settle, 0);
    // The client that started this clipd is about to mount, and then to read. That comes first.
    else setTimeout(settle, FIRST_USE_MS);
    return { server, settings, log, metrics };
  } catch (error) {
    // If no server has served yet, the keeper passes the error to the process that started it. Later it tries again, with back-off.
    const fields = error instanceof ClipError ? { error: error.message, hint: error.hint } : { err: error };
    log?.fatal(fields, 'cannot serve');
    await keeper.call('cannotServe', { error: toWireError(error) });
    endNow();
    throw error; // not reached
  }
}

/** Standard error becomes the log in the root. */
function logToRoot(path: string): void {
  const root = OwnDirectory.open(path);
  try {
    turnToLog(root);
  } finally {
    root.close();
  }
}

/**
 * Ends this process at once. process.exit() waits for threads, and a FUSE worker may wait in epoll_wait for a request that never
 * comes; it also runs code that may have to be loaded, from files that an upgrade is just replacing.
 */
function endNow(): void {
  process.kill(process.pid, 'SIGKILL');
}

/**
 * Loads the modules that only some requests need. A package manager may replace this version's files at any later moment: what is not loaded
 * by then is gone. @throws if a file is missing already
 */
async function loadTheRest(log: Logger | null): Promise<void> {
  void log?.level; // makes the logger
  loadCrc64();
  await Promise.all([import('../oci/index.js'), import('picomatch'), import('./api/exposition.js')]);
}
