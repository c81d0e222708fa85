import { fileURLToPath } from 'node:url';
import type { DaemonSettings } from './keeper-protocol.js';
import type { WireError } from './rpc.js';

/** The programs of the installed version. */
export const KEEPER_MAIN: string = fileURLToPath(new URL('../keeper/keeper-main.js', import.meta.url));
export const SERVER_MAIN: string = fileURLToPath(new URL('../server/server-main.js', import.meta.url));
/** Of a client in reserve (docs/internals/start.md, "The client in reserve"). Its argument: the root. */
export const SPARE_MAIN: string = fileURLToPath(new URL('../cli/spare-main.js', import.meta.url));
/** In the root, for its owner alone: the names by which the shell of bin/clipctl.js finds it. */
export const SPARE_DIRECTORY = 'clipd.spare';

/** A keeper handles few messages, for weeks: no threads for compiling. Not V8's flags but Node's: see src/loader/v8-flags.ts. */
export const KEEPER_FLAGS: readonly string[] = ['--v8-pool-size=0'];

/**
 * One heap for all threads: glibc gives each thread its own, which grows and is never returned. Threads that answer reads allocate
 * nothing, so they do not contend for it (docs/benchmarks.md, "Why these constants").
 */
export const SERVER_ENVIRONMENT: Readonly<Record<string, string>> = { MALLOC_ARENA_MAX: '1' };

/** First argument of a keeper whose server was started beside it; the second is the server's process id. */
export const ADOPT = 'adopt';
/** Its descriptors: of the server's IPC channel, of the socket for descriptors, and the one that the server listens on. */
export const ADOPTED: { readonly channel: 3; readonly fds: 4; readonly listen: 5 } = { channel: 3, fds: 4, listen: 5 };

/** The line on a keeper's standard input that starts its work. */
export interface KeeperStart {
  readonly settings: DaemonSettings;
  /** The keeper may have been launched before its starter's flags were read, which set variables. */
  readonly environment: NodeJS.ProcessEnv;
}

/** A line of a keeper's standard output. */
export type KeeperReport =
  /** The socket takes connections; they wait until a server serves. */
  | { readonly state: 'listening' }
  | { readonly state: 'serving' }
  | { readonly state: 'failed'; readonly error: WireError };

/** An auto-started clipd leaves this many seconds after its last mount. */
export const IDLE_EXIT_SECONDS = 60;
