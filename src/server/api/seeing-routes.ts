import { readFileSync } from 'node:fs';
import { type Metric, type Metrics, readMetrics } from '../../metrics/index.js';
import { API, type JourneyReply, logLevelRequest, type TracedRead } from '../../wire/index.js';
import type { ImageMount } from '../image-mount.js';
import type { MountList } from '../mount-list.js';
import type { EndedRead } from '../reads.js';
import type { ServerProcessContext } from '../run-server.js';
import { createRouteServer, LinesReply, mountPointOf, type Route, TextReply } from './http.js';

/** Bytes of a process in memory. 0 for a process that has just ended. */
export const rssOf = (pid: number): number => memoryOf(pid, 'status', /^VmRSS:\s+(\d+) kB$/m);

/** The same, where a page that n processes share counts 1/n (proc_pid_smaps(5)): what the processes of clipd take together is their sum. */
export const pssOf = (pid: number): number => memoryOf(pid, 'smaps_rollup', /^Pss:\s+(\d+) kB$/m);

/** Of a process in reserve, if there is one. */
export const ofReserve = (pid: number | null | undefined, size: (pid: number) => number): number =>
  pid === null || pid === undefined ? 0 : size(pid);

function memoryOf(pid: number, file: string, line: RegExp): number {
  try {
    return Number(line.exec(readFileSync(`/proc/${pid}/${file}`, 'latin1'))?.[1] ?? 0) * 1024;
  } catch {
    return 0;
  }
}

/** What only the keeper knows, asked before each reading of the metrics. */
class ProcessFigures {
  readonly #server: MountList;
  #mounts = 0;
  #reserve: Awaited<ReturnType<MountList['standby']>> = { pid: null };

  constructor(server: MountList, metrics: Metrics) {
    this.#server = server;
    const { hello } = server;
    metrics.gauge('mounts', () => this.#mounts);
    metrics.gauge('restarts', () => hello.restarts);
    metrics.gauge('uptimeSeconds', () => (Date.now() - hello.startedAt) / 1000);
    metrics.gauge('serverRss', () => rssOf(process.pid));
    metrics.gauge('keeperRss', () => rssOf(hello.keeperPid));
    metrics.gauge('standbyRss', () => ofReserve(this.#reserve.pid, rssOf));
    metrics.gauge('clientRss', () => ofReserve(this.#reserve.client, rssOf));
  }

  async refresh(): Promise<void> {
    const [connections, reserve] = await Promise.all([this.#server.list(), this.#server.standby()]);
    this.#mounts = connections.reduce((sum, { places }) => sum + places.length, 0);
    this.#reserve = reserve;
  }
}

/** Reads all metrics. */
export function metricsReader({ server, metrics }: ServerProcessContext): () => Promise<readonly Metric[]> {
  const figures = new ProcessFigures(server, metrics);
  return async () => {
    await figures.refresh();
    return readMetrics(metrics);
  };
}

/** The metrics as monitoring asks for them. */
async function metricsText(read: () => Promise<readonly Metric[]>): Promise<TextReply> {
  const [metrics, { exposition }] = await Promise.all([read(), import('./exposition.js')]);
  const { contentType, text } = await exposition(metrics);
  return new TextReply(contentType, text);
}

/** A server that is replaced may hold the port for a moment. */
const LISTEN_AGAIN_MS = 1000;

/** Serves the metrics, and nothing else, to every client that reaches this address. */
export function serveMetrics(
  { log }: ServerProcessContext,
  read: () => Promise<readonly Metric[]>,
  { host, port }: { readonly host: string; readonly port: number },
): void {
  const server = createRouteServer({ 'GET /metrics': () => metricsText(read) }, (err) =>
    log.error({ err }, 'a request for the metrics failed'),
  );
  let told = false;
  server.on('error', (error) => {
    if (!told) log.error({ host, port, error: error.message }, 'the metrics cannot be served: trying again');
    told = true;
    setTimeout(() => server.listen({ host, port }), LISTEN_AGAIN_MS).unref();
  });
  server.on('listening', () => log.info({ host, port }, 'serving metrics'));
  server.listen({ host, port });
  // The process does not stay for its sake.
  server.unref();
}

/** Lines that a client has not taken are dropped beyond this, and counted: a reader must never wait for a trace. */
const MAX_UNTAKEN = 1024 * 1024;

function trace(mount: ImageMount, signal: AbortSignal): LinesReply {
  return new LinesReply((write) => {
    let dropped = 0;
    const watch = (read: EndedRead): void => {
      if (dropped > 0 && write.untaken < MAX_UNTAKEN) {
        write.line({ dropped });
        dropped = 0;
      }
      if (write.untaken < MAX_UNTAKEN) write.line(tracedRead(read));
      else dropped++;
    };
    mount.watchers.add(watch);
    signal.addEventListener('abort', () => mount.watchers.delete(watch), { once: true });
    void mount.closed.then(() => write.end());
  });
}

/** Times of reads are those of performance.now(), whose origin is the start of this process. */
function tracedRead({ nid, offset, length, source, started, ended, error, caller }: EndedRead): TracedRead {
  return {
    time: new Date(performance.timeOrigin + started).toISOString(),
    nid,
    offset,
    length,
    source,
    duration: Math.round((ended - started) * 1000) / 1000,
    pid: caller?.pid ?? null,
    command: caller?.command ?? null,
    container: caller?.container ?? null,
    error,
  };
}

/** The routes by which clipd is watched. */
export function seeingRoutes(
  context: ServerProcessContext,
  read: () => Promise<readonly Metric[]>,
): Record<string, Route> {
  const { server, log } = context;
  const journey = async (mountPoint: string): Promise<JourneyReply> =>
    (await server.mountOf(mountPoint)).describeJourney(null);
  return {
    'GET /metrics': () => metricsText(read),
    [`GET ${API.metrics}`]: async () => ({ metrics: await read() }),
    [`GET ${API.trace}`]: async (_body, query, signal) => trace(await server.mountOf(mountPointOf(query)), signal),
    [`GET ${API.journey}`]: (_body, query) => journey(mountPointOf(query)),
    [`POST ${API.logLevel}`]: (body) => {
      const { level } = logLevelRequest(body, 'request: body');
      const before = log.level;
      if (before === level) return { level, before };
      log.level = level;
      log.info({ level, before }, 'log level changed');
      return { level, before };
    },
  };
}
