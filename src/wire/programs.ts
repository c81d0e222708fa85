import { fileURLToPath } from 'node:url';
import type { DaemonSettings } from './keeper-protocol.js';
import type { WireError } from './rpc.js';

/** The programs of the installed version. */
export const KEEPER_MAIN: string = fileURLToPath(new URL('../keeper/keeper-main.js', import.meta.url));
export const SERVER_MAIN: string = fileURLToPath(new URL('../server/server-main.js', import.meta.url));

/** A keeper handles few messages, for weeks: no threads for compiling. Not V8's flags but Node's: see src/loader/v8-flags.ts. */
export const KEEPER_FLAGS: readonly string[] = ['--v8-pool-size=0'];

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
