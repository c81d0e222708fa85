/**
 * The process that serves the mounts: images, layers and the list of places; in api/ the control API. Mounting itself is the
 * keeper's. Never imports keeper/. A program without an index.ts, because no folder imports it. Runs in the server, in its I/O thread.
 */

import { once } from 'node:events';
import type { Server } from 'node:http';
import { packageVersion } from '../metrics/index.js';
import { LISTEN_FD, type ServerStart } from '../wire/index.js';

/** The server process of clipd, spawned by the keeper. */
const version = packageVersion();
const told = once(process, 'message') as Promise<[ServerStart]>;
// runServer watches for that, once it is loaded.
const orphaned = (): never => process.exit(0);
process.once('disconnect', orphaned);
let api: Server | null = null;

async function main(): Promise<void> {
  const { runServer } = await import('./run-server.js');
  process.off('disconnect', orphaned);
  const starting = runServer(
    told.then(([start]) => start),
    version,
    async () => {
      await new Promise<void>((resolve) => {
        if (api === null) return resolve();
        // Requests under way are answered; connections kept alive are not waited for.
        api.close(() => resolve());
        api.closeIdleConnections();
        setTimeout(() => api?.closeAllConnections(), 500).unref();
      });
    },
  );
  // Loaded while a FUSE thread boots, and before the keeper has said what to serve.
  const [{ createApiServer }, { routesOf }, { metricsReader, serveMetrics }] = await Promise.all([
    import('./api/http.js'),
    import('./api/routes.js'),
    import('./api/seeing-routes.js'),
  ]);
  const context = await starting;
  const read = metricsReader(context);
  api = createApiServer(routesOf(context, version, read), (err) => context.log.error({ err }, 'a request failed'));
  api.listen({ fd: LISTEN_FD });
  const { metricsAddress } = context.settings;
  if (metricsAddress !== undefined) serveMetrics(context, read, metricsAddress);
}

void main();
