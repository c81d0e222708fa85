import type { PrefetchState, PrefetchWish } from '../../wire/index.js';
import {
  API,
  type PrefetchReply,
  type PrefetchRequest,
  prefetchCancelRequest,
  prefetchRequest,
} from '../../wire/index.js';
import type { MountList } from '../mount-list.js';
import { mountPointOf, type Route } from './http.js';

function wishOf({ profile, paths, bytesPerSecond }: PrefetchRequest): PrefetchWish {
  if (profile === true) return { what: 'profile' };
  if (paths !== undefined) return { what: 'paths', paths };
  return { what: 'image', bytesPerSecond };
}

/** Prefetching. */
export function prefetchRoutes(server: MountList): Record<string, Route> {
  const replies = (mountPoint: string, states: readonly PrefetchState[]): { prefetches: PrefetchReply[] } => ({
    prefetches: states.map((state) => ({ mountPoint, ...state })),
  });
  return {
    [`POST ${API.prefetch}`]: async (body): Promise<PrefetchReply> => {
      const request = prefetchRequest(body, 'request: body');
      const { mountPoint } = request;
      const mount = await server.mountOf(mountPoint);
      return { mountPoint, ...(await mount.ahead.start(wishOf(request))) };
    },
    [`GET ${API.prefetch}`]: async (_body, query) => {
      const mountPoint = mountPointOf(query);
      return replies(mountPoint, (await server.mountOf(mountPoint)).ahead.list());
    },
    [`POST ${API.prefetchCancel}`]: async (body) => {
      const { mountPoint, id } = prefetchCancelRequest(body, 'request: body');
      return replies(mountPoint, (await server.mountOf(mountPoint)).ahead.cancel(id));
    },
  };
}
