import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { launchKeeper } from '../client/index.js';

/** Begins what a command most likely needs and what takes longer than loading the command. */
export function startEarly(args: readonly string[], env: NodeJS.ProcessEnv): void {
  if (args.includes('--help') || args.includes('-h')) return;
  if (args[0] === 'mount' || args[0] === 'run') startKeeper(args, env);
  else if (args[0] === 'index' && args.length > 1) startLane().catch(() => {}); // told when the command makes one itself
}

async function startLane(): Promise<void> {
  const { prepareLane } = await import('../index/index.js');
  prepareLane();
}

/**
 * Launches a keeper for a command that most likely starts a clipd, before the command is even loaded. Where this guess is wrong (another
 * root in a configuration file, a mistake in the arguments) the keeper ends unused.
 */
function startKeeper(args: readonly string[], env: NodeJS.ProcessEnv): void {
  const root = rootOf(args) ?? env.CLIP_ROOT ?? usualRoot(env);
  if (root !== null && !existsSync(join(root, 'clipd.sock'))) launchKeeper();
}

function rootOf(args: readonly string[]): string | undefined {
  const at = args.indexOf('--root');
  return at >= 0 ? args[at + 1] : args.find((arg) => arg.startsWith('--root='))?.slice('--root='.length);
}

/** As wire/'s defaultRoot, which comes with much that is not needed yet. */
function usualRoot(env: NodeJS.ProcessEnv): string | null {
  if (process.getuid?.() === 0) return '/run/clip';
  return env.XDG_RUNTIME_DIR ? join(env.XDG_RUNTIME_DIR, 'clip') : null;
}
