import { Command, CommanderError } from 'commander';
import { ClipError } from '../bytes/index.js';
import { keepCode } from '../loader/index.js';
import { packageVersion } from '../metrics/index.js';
import { registerCommands } from './commands/index.js';
import {
  EXIT_FAILED,
  EXIT_NOT_RUN,
  EXIT_USAGE,
  exitCodeOf,
  exitCodeOfRun,
  printError,
  printJsonError,
  setOutput,
} from './output.js';

/** Runs the command that the arguments name, and sets this process's exit code. */
export async function runCommandLine(): Promise<void> {
  const program = new Command('clipctl')
    .description('Run container images without pulling them.')
    .version(packageVersion(), '-V, --version', 'print the version')
    .exitOverride();

  // The reader of our output has closed it (`clipctl ls -R | head`): end quietly, as other programs do.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0);
    printError(new ClipError('SYSTEM', `cannot write the result to stdout: ${error.message}`, { cause: error }));
    process.exit(EXIT_FAILED);
  });

  process.on('exit', (code) => {
    if (code === 0) keepCode();
  });

  try {
    const [node, script, ...args] = process.argv;
    await registerCommands(program, args);
    const words = args[0] === 'help' ? wordsForHelp(program, args.slice(1)) : args;
    await program.parseAsync([node!, script!, ...words]);
  } catch (error) {
    await report(explained(error));
  }
}

/** `help cache prune` is `cache prune --help`: Commander's own help shows one command's, and the whole for a command that there is not. */
function wordsForHelp(program: Command, asked: readonly string[]): string[] {
  const words: string[] = [];
  let command = program;
  for (const word of asked.filter((one) => !one.startsWith('-'))) {
    if (command.commands.length === 0) break;
    const below = command.commands.find((one) => one.name() === word || one.aliases().includes(word));
    words.push(word);
    if (below === undefined) return words; // whose error names similar ones
    command = below;
  }
  return [...words, '--help'];
}

async function report(error: unknown): Promise<void> {
  // `run` has other exit codes for its failures than the programs that it runs, as in docker.
  const isRun = process.argv[2] === 'run';
  if (!(error instanceof CommanderError)) {
    printError(error);
    process.exitCode = isRun ? exitCodeOfRun(error) : exitCodeOf(error);
  } else if (error.exitCode !== 0) {
    setOutput({ json: wantsJson(process.argv) });
    const { usageError } = await import('./usage-error.js');
    // Otherwise it has printed the help, for lack of a command.
    const kept = usageError();
    if (kept === null) printJsonError(new ClipError('USAGE', 'no command is given', { hint: 'clipctl help' }));
    else printError(kept);
    process.exitCode = isRun ? EXIT_NOT_RUN : EXIT_USAGE;
  }
}

/** Node throws this for any relative path if the current directory has been removed. */
function explained(error: unknown): unknown {
  if ((error as NodeJS.ErrnoException | null)?.syscall !== 'uv_cwd') return error;
  return new ClipError('NOT_FOUND', 'the current directory has been removed, so relative paths lead nowhere', {
    cause: error,
    hint: 'cd elsewhere first, or give absolute paths',
  });
}

/** Before the command line is understood: `--json` anywhere in front of the words that belong to another program. */
function wantsJson(args: readonly string[]): boolean {
  const end = args.indexOf('--');
  return (end < 0 ? args : args.slice(0, end)).includes('--json');
}
