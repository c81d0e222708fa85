import { type Command, Option } from 'commander';

const LOG_LEVELS = ['debug', 'info', 'warn', 'error'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

const PROGRESS = ['auto', 'plain', 'none'] as const;
export type ProgressStyle = (typeof PROGRESS)[number];

/** The flags of every command. A command that neither talks to clipd nor looks at its cache ignores the first two. */
export interface CommonFlags {
  readonly root?: string;
  readonly cacheDir?: string;
  readonly json?: boolean;
  readonly quiet?: boolean;
  readonly verbose?: boolean;
  readonly logLevel?: LogLevel;
  readonly progress?: ProgressStyle;
}

/** Adds options below a heading of their own in the command's help. */
export function grouped(command: Command, heading: string, add: (command: Command) => void): Command {
  const before = command.optionsGroup();
  command.optionsGroup(heading);
  add(command);
  return command.optionsGroup(before);
}

/** Adds them to a command and all below it. They may stand before a command's name or after it; the latter wins. */
export function addCommonFlags(command: Command): void {
  grouped(command, command.parent === null ? '' : 'Every command:', addOwnCommonFlags);
  for (const below of command.commands) addCommonFlags(below);
}

function addOwnCommonFlags(command: Command): void {
  command
    .option('--root <dir>', "clipd's socket and state (default /run/clip, or $XDG_RUNTIME_DIR/clip)")
    .option('--cache-dir <dir>', 'the span cache (default /var/cache/clip, or $XDG_CACHE_HOME/clip)')
    .option('--json', 'print JSON, errors too')
    .option('-q, --quiet', 'no progress and no notes')
    .option('--verbose', 'print more, and log more: --log-level debug')
    .addOption(
      new Option('--log-level <level>', 'of stderr, and of the log of a clipd that this command starts').choices(
        LOG_LEVELS,
      ),
    )
    .addOption(
      new Option('--progress <how>', 'bars on a terminal, else a line every 10 s; always lines; none').choices(
        PROGRESS,
      ),
    );
}

/** Takes over those that stand before the command's name. */
export function inheritFlags(command: Command): void {
  for (let above = command.parent; above !== null; above = above.parent) {
    for (const [name, value] of Object.entries(above.opts())) {
      if (command.getOptionValueSource(name) === undefined) command.setOptionValueWithSource(name, value, 'cli');
    }
  }
}
