import type { Command } from 'commander';
import { registerIndex } from './index-command.js';
import { registerInspect } from './inspect.js';
import { registerLs } from './ls.js';
import { registerVersion } from './version.js';

/** Each command registers itself and loads what it needs when it runs: `clipctl help` must not load an engine. */
export const commands: readonly ((program: Command) => void)[] = [
  registerIndex,
  registerLs,
  registerInspect,
  registerVersion,
];
