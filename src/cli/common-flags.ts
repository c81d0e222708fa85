import type { Command } from 'commander';

/** The flags of every command. A command that neither talks to clipd nor looks at its cache ignores the first two. */
export interface CommonFlags {
  readonly root?: string;
  readonly cacheDir?: string;
  readonly json?: boolean;
  readonly verbose?: boolean;
}

/** Adds them to `program` and all its commands. They may stand before the command's name or after it; the latter wins. */
export function addCommonFlags(program: Command): void {
  addTo(program);
  program.hook('preAction', (_, action) => {
    const own = (name: string): boolean => action.getOptionValueSource(name) !== undefined;
    for (let above = action.parent; above !== null; above = above.parent) {
      for (const [name, value] of Object.entries(above.opts())) {
        if (!own(name)) action.setOptionValueWithSource(name, value, 'cli');
      }
    }
  });
}

function addTo(command: Command): void {
  command
    .option('--root <dir>', "clipd's socket and state (default $CLIP_ROOT, /run/clip, or $XDG_RUNTIME_DIR/clip)")
    .option('--cache-dir <dir>', 'the span cache (default $CLIP_CACHE_DIR, /var/cache/clip, or $XDG_CACHE_HOME/clip)')
    .option('--json', 'print JSON')
    .option('--verbose', 'print more, and log more');
  for (const below of command.commands) addTo(below);
}
