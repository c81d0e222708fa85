import type { Command } from 'commander';
import { registerCache } from './cache.js';
import { registerDaemon } from './daemon.js';
import { registerHealth } from './health.js';
import { registerIndex } from './index-command.js';
import { registerInspect } from './inspect.js';
import { registerLs } from './ls.js';
import { registerMount } from './mount.js';
import { registerOptimize } from './optimize.js';
import { registerPrefetch } from './prefetch.js';
import { registerProfile } from './profile.js';
import { registerPs } from './ps.js';
import { registerStats } from './stats.js';
import { registerUmount } from './umount.js';
import { registerVerify } from './verify.js';
import { registerVersion } from './version.js';

/** Each command registers itself and loads what it needs when it runs: `clipctl help` must not load an engine. */
export const commands: readonly ((program: Command) => void)[] = [
  registerIndex,
  registerLs,
  registerInspect,
  registerVerify,
  registerOptimize,
  registerProfile,
  registerMount,
  registerUmount,
  registerPs,
  registerStats,
  registerPrefetch,
  registerHealth,
  registerCache,
  registerDaemon,
  registerVersion,
];
