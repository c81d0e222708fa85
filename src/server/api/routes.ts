import { ClipError } from '../../bytes/index.js';
import { mountNamespace } from '../../linux/index.js';
import type { Metric } from '../../metrics/index.js';
import { wrongAnswers } from '../../oci/index.js';
import {
  API,
  type ConnectionStats,
  type FirstExecRequest,
  firstExecRequest,
  foreignParts,
  type Health,
  type MountInfoReply,
  type MountRequest,
  mountRequest,
  type ProfileReply,
  planeOf,
  profileStopRequest,
  type Stats,
  stopRequest,
  type UnmountReply,
  unmountRequest,
  upgradeRequest,
} from '../../wire/index.js';
import { ForeignCaller, refusal } from '../foreign-caller.js';
import type { MountedPlace } from '../mount-list.js';
import type { ServerProcessContext } from '../run-server.js';
import { cacheRoutes } from './cache-routes.js';
import { type ApiCaller, mountPointOf, type Route } from './http.js';
import { prefetchRoutes } from './prefetch-routes.js';
import { ofReserve, pssOf, rssOf, seeingRoutes } from './seeing-routes.js';

/** How often a waiting client's place is looked up. */
const WAIT_POLL_MS = 250;

/** The handlers of all requests. */
export function routesOf(
  context: ServerProcessContext,
  version: string,
  readAll: () => Promise<readonly Metric[]>,
): Record<string, Route> {
  const { server, settings, metrics } = context;
  const { hello, engine } = server;

  const health = async (): Promise<Health> => ({
    status: 'ok',
    version,
    node: process.versions.node,
    root: settings.root,
    cacheDir: settings.cacheDir,
    mountNamespace: mountNamespace(),
    keeperPid: hello.keeperPid,
    serverPid: process.pid,
    uptime: Math.round((Date.now() - hello.startedAt) / 100) / 10,
    restarts: hello.restarts,
    mounts: (await server.list()).reduce((sum, connection) => sum + connection.places.length, 0),
  });

  /** By request: a place that is mounted anew has none. In memory only, like the counters. */
  const firstExecs = new Map<string, number>();
  const noteFirstExec = async ({ mountPoint, milliseconds, event = 'exec', at }: FirstExecRequest): Promise<object> => {
    const places = (await server.list()).flatMap((connection) => connection.places);
    const known = new Set(places.map(({ requestId }) => requestId));
    for (const old of firstExecs.keys()) if (!known.has(old)) firstExecs.delete(old);
    const place = places.find(({ path }) => path === mountPoint);
    if (place === undefined) throw new ClipError('NOT_FOUND', `${mountPoint} is not a clip mount of this clipd`);
    (await server.mountOf(mountPoint)).journey.reached(
      event,
      at === undefined ? performance.now() : at - performance.timeOrigin,
    );
    if (event === 'output') return {};
    firstExecs.set(place.requestId, milliseconds);
    metrics.histogram('firstExecSeconds').observe(milliseconds / 1000);
    return {};
  };

  const describe = ({ connection, place, reference }: MountedPlace): MountInfoReply => ({
    mountPoint: place.path,
    archivePath: connection.archivePath,
    identity: connection.identity,
    reference,
    connection: connection.id,
    suid: place.suid,
    dev: place.dev,
    options: connection.options,
    plane: planeOf(connection),
    layers: server.archiveOf(connection.id)?.image.layers.length ?? 0,
    kernelLayers: engine.mounts.get(connection.id)?.kernelLayers() ?? 0,
    mountedAt: new Date(place.mountedAt).toISOString(),
    fetchedBytes: engine.mounts.get(connection.id)?.source.fetchedBytes ?? 0,
    firstRead: engine.mounts.get(connection.id)?.firstRead ?? null,
    firstExec: firstExecs.get(place.requestId) ?? null,
    prefetches: engine.mounts.get(connection.id)?.ahead.list() ?? [],
  });

  const list = async (): Promise<MountInfoReply[]> => {
    const replies: MountInfoReply[] = [];
    for (const connection of await server.list()) {
      const reference = server.archiveOf(connection.id)?.image.reference ?? '';
      for (const place of connection.places) replies.push(describe({ connection, place, reference }));
    }
    return replies;
  };

  const stats = async (): Promise<Stats> => {
    const connections: ConnectionStats[] = [];
    for (const state of await server.list()) {
      const mount = engine.mounts.get(state.id);
      if (mount === undefined) continue;
      connections.push({
        id: state.id,
        identity: state.identity,
        reference: mount.file.archive.image.reference,
        places: state.places.map((place) => place.path),
        detached: state.detached,
        plane: planeOf(state),
        treeBytes: mount.file.archive.treeBytes,
        layers: mount.file.archive.image.layers.length,
        fetchedBytes: mount.source.fetchedBytes,
        firstRead: mount.firstRead,
        firstExecs: state.places.flatMap(({ requestId }) => firstExecs.get(requestId) ?? []),
        reads: { ...mount.reads.counters },
        ...mount.usage(),
        inFlight: mount.reads.inFlight,
        prefetches: mount.ahead.list(),
      });
    }
    const standby = await server.standby();
    return {
      health: await health(),
      resend: engine.resend,
      cache: { ...engine.cache.stats() },
      counters: { ...metrics.snapshot(), ...wrongAnswers() },
      metrics: await readAll(),
      fuse: engine.fuse.stats(),
      connections,
      memory: {
        serverRss: rssOf(process.pid),
        keeperRss: rssOf(hello.keeperPid),
        standbyRss: ofReserve(standby.pid, rssOf),
        clientRss: ofReserve(standby.client, rssOf),
        serverPss: pssOf(process.pid),
        keeperPss: pssOf(hello.keeperPid),
        standbyPss: ofReserve(standby.pid, pssOf),
        clientPss: ofReserve(standby.client, pssOf),
      },
    };
  };

  /** Answers when nothing is mounted at the place any more. */
  const wait = async (query: URLSearchParams, signal: AbortSignal): Promise<{ mountPoint: string }> => {
    const mountPoint = mountPointOf(query);
    while (!signal.aborted && (await list()).some((mount) => mount.mountPoint === mountPoint)) {
      await new Promise((resolve) => setTimeout(resolve, WAIT_POLL_MS));
    }
    return { mountPoint };
  };

  const mount = async (request: MountRequest, mountPoint: string, caller: ForeignCaller | null) =>
    describe(
      await server.mount({
        archivePath: request.archivePath,
        mountPoint,
        caller,
        requestId: request.requestId,
        options: request.options ?? {},
        suid: request.suid ?? false,
        dev: request.dev ?? false,
        access: request.access ?? {},
        command: request.command,
        words: request.words,
      }),
    );

  const stopProfile = async (mountPoint: string): Promise<ProfileReply> => {
    const { recording } = await server.mountOf(mountPoint);
    if (recording === null) {
      throw new ClipError('NOT_FOUND', `nothing was recorded of ${mountPoint}`, {
        hint: 'clipd was restarted after it was mounted, or the image is too large: mount it again',
      });
    }
    return { mountPoint, path: recording.path, profile: recording.stop() };
  };

  return {
    [`GET ${API.health}`]: health,
    [`GET ${API.mounts}`]: async () => ({ mounts: await list() }),
    [`POST ${API.mounts}`]: async (body, _query, _signal, from) => {
      const request = mountRequest(body, 'request: body');
      requireSameDaemon(request, context);
      requireKnown(request.mountNamespace, from);
      const there = foreignParts(request.mountPoint);
      if ((there?.namespace ?? null) !== from.foreign) throw refusal('only its own processes mount in another one');
      const caller = there === null ? null : new ForeignCaller(from.socket);
      try {
        return await mount(request, there?.path ?? request.mountPoint, caller);
      } finally {
        caller?.close();
      }
    },
    [`POST ${API.unmount}`]: async (body, _query, _signal, from): Promise<UnmountReply> => {
      const { mountPoint, mode, mountNamespace: there } = unmountRequest(body, 'request: body');
      if (there !== undefined) requireKnown(there, from);
      return { mountPoint, ...(await server.unmount(mountPoint, mode, from.foreign)) };
    },
    [`POST ${API.firstExec}`]: (body) => noteFirstExec(firstExecRequest(body, 'request: body')),
    [`POST ${API.profileStop}`]: (body) => stopProfile(profileStopRequest(body, 'request: body').mountPoint),
    ...seeingRoutes(context, readAll),
    ...prefetchRoutes(server),
    ...cacheRoutes(engine, settings),
    [`GET ${API.wait}`]: (_body, query, signal) => wait(query, signal),
    [`GET ${API.stats}`]: stats,
    [`POST ${API.stop}`]: (body) => server.stop(stopRequest(body, 'request: body').onlyIfIdle ?? false),
    [`POST ${API.upgrade}`]: (body) => server.upgrade(upgradeRequest(body, 'request: body').serverModule),
  };
}

/** @throws ClipError CONFLICT when clipd does not find the caller in the mount namespace in which it says that it is */
function requireKnown(said: string, { foreign }: ApiCaller): void {
  if (said === (foreign ?? mountNamespace())) return;
  throw refusal(
    'cannot find the process that asks: it is not of this process id namespace, or another one passes its requests on',
  );
}

/** A URL without its secrets, for a screen or a log. */
function withoutPassword(value: string | number): string {
  return String(value).replace(/(?<=^[\w+]+:\/\/).*@/, '…@');
}

/**
 * The running clipd must have the settings that the caller named: another cache, used silently, would look like success. A default
 * counts as the value that clipd has for it.
 */
function requireSameDaemon(request: MountRequest, { settings, server }: ServerProcessContext): void {
  const { cache, fuse } = server.engine;
  const runs = {
    cacheDir: ['--cache-dir', settings.cacheDir],
    cacheSize: ['--cache-size', settings.cacheSize ?? cache.stats().maxBytes],
    workers: ['--workers', settings.workers ?? fuse.workerCount],
    contentCache: ['--content-cache', settings.contentCache],
  } as const;
  if (request.daemon?.profileSharing === false && settings.profileSharing !== false) {
    throw otherDaemon(`clipd at ${settings.root} runs without --no-profile-sharing`);
  }
  for (const key of Object.keys(runs) as (keyof typeof runs)[]) {
    const wanted = request.daemon?.[key];
    const [flag, has] = runs[key];
    if (wanted === undefined || wanted === has) continue;
    const found = has === undefined ? `without ${flag}` : `with ${flag} ${withoutPassword(has)}`;
    throw otherDaemon(`clipd at ${settings.root} runs ${found}, not with ${withoutPassword(wanted)}`);
  }
}

function otherDaemon(message: string): ClipError {
  return new ClipError('CONFLICT', message, { hint: 'leave the option out, or use another --root for a second clipd' });
}
