import { ClipError } from '../bytes/index.js';
import { dieWithParent } from '../linux/index.js';
import { createLogger, type Logger, Metrics } from '../metrics/index.js';
import { Engine } from './engine.js';
import { FdSocket } from './fd-socket.js';
import { type DaemonSettings, FDS_SOCKET_FD, KEEPER_PROTOCOL, type KeeperMethods } from './protocol.js';
import { Rpc, toWireError } from './rpc.js';
import { MountServer } from './server.js';

export interface ServerProcessContext {
  readonly server: MountServer;
  readonly settings: DaemonSettings;
  readonly log: Logger;
  readonly metrics: Metrics;
}

/**
 * The whole life of a server process but its API: ties this process to the keeper that spawned it, takes over its
 * connections, and ends when the keeper says so or has gone.
 * @param closeApi called first when the keeper wants this server to end: no more requests
 */
export async function startServerProcess(
  settings: DaemonSettings,
  version: string,
  closeApi: () => Promise<void>,
): Promise<ServerProcessContext> {
  process.title = 'clipd server';
  // Without its keeper a server is nothing: mounts belong to the next clipd.
  dieWithParent('SIGKILL');
  process.on('disconnect', () => process.exit(0));
  // Ctrl-C in a terminal goes to the whole group; the keeper decides what happens.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => {});
  const log = createLogger({ name: 'server', level: settings.verbose ? 'debug' : 'info' });
  process.on('uncaughtException', (err) => {
    log.fatal({ err }, 'this server process ends');
    process.exit(1);
  });
  const metrics = new Metrics();
  const fds = new FdSocket(FDS_SOCKET_FD);
  let engine: Engine | null = null;
  const keeper = new Rpc<KeeperMethods>(process, {
    drain: async ({ milliseconds }: { milliseconds: number }) => {
      await closeApi();
      await engine?.drain(milliseconds);
      process.exit(0);
    },
  });
  const admitted = keeper.call('hello', { protocol: KEEPER_PROTOCOL, version });
  try {
    engine = await Engine.start({ settings, log, metrics }, admitted);
    const server = new MountServer(await admitted, engine, keeper, fds, log);
    engine.onGone = (id) => void server.gone(id);
    await server.restore();
    return { server, settings, log, metrics };
  } catch (error) {
    // Before anything was served the keeper passes this on to who started it; later it tries again, with back-off.
    const fields = error instanceof ClipError ? { error: error.message, hint: error.hint } : { err: error };
    log.fatal(fields, 'cannot serve');
    await keeper.call('cannotServe', { error: toWireError(error) });
    process.exit(1);
  }
}
