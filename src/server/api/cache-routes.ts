import { listCache, summarizeCache } from '../../cache/index.js';
import type { DaemonSettings } from '../../wire/index.js';
import {
  API,
  type CachedLayerReply,
  type CachePruneReply,
  type CacheReply,
  type CacheVerifyReply,
  cachePruneRequest,
  cacheVerifyRequest,
} from '../../wire/index.js';
import type { Engine } from '../engine.js';
import type { Route } from './http.js';

/** The span cache, which is this clipd's while it runs. */
export function cacheRoutes(engine: Engine, { cacheDir }: DaemonSettings): Record<string, Route> {
  const { cache } = engine;
  return {
    [`GET ${API.cache}`]: (): CacheReply => {
      const { maxBytes, mountedLayers, writable } = cache.stats();
      return { ...summarizeCache(cacheDir), maxBytes, mountedLayers, writable, verifying: engine.verifying };
    },
    [`GET ${API.cacheLayers}`]: (): { layers: CachedLayerReply[] } => ({
      layers: listCache(cacheDir).map((file) => ({
        ...file,
        mounted: cache.isMounted(`${file.layer.slice(file.layer.indexOf(':') + 1)}.${file.table}`),
      })),
    }),
    [`POST ${API.cachePrune}`]: async (body): Promise<CachePruneReply> => {
      const { to = 0, mounted = false } = cachePruneRequest(body, 'request: body');
      const freedBytes = await engine.pruneCache(to, mounted ? 'anything' : 'unmounted');
      return { freedBytes, usedBytes: cache.usedBytes, sealedBytes: cache.sealedBytes };
    },
    [`POST ${API.cacheVerify}`]: async (body, _query, signal): Promise<CacheVerifyReply> => {
      cacheVerifyRequest(body, 'request: body');
      const files = await engine.verifyCache(signal);
      return { files, damaged: files.reduce((sum, file) => sum + file.damaged, 0) };
    },
  };
}
