/**
 * `clipctl`: flags, texts, exit codes, one file per command. Work that the library needs as well belongs to client/, index/ or
 * check/. A program without an index.ts, because no folder imports it. Runs in the client process.
 */

import { Command, CommanderError } from 'commander';
import { ClipError, printableText } from '../bytes/index.js';
import { packageVersion } from '../metrics/index.js';
import { registerCommands } from './commands/index.js';
import { EXIT_FAILED, EXIT_NOT_RUN, EXIT_USAGE, exitCodeOf, printError } from './output.js';

const program = new Command('clipctl')
  .description('Run container images without pulling them.')
  .showHelpAfterError('  clipctl help COMMAND shows its arguments and flags')
  // All errors look alike: commander's get our prefix.
  .configureOutput({ outputError: (text, write) => write(printableText(text.replace(/^error: /, 'clipctl: '))) })
  .version(packageVersion(), '-V, --version', 'print the version')
  .exitOverride();

// The reader of our output has closed it (`clipctl ls -R | head`): end quietly, as other programs do.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  printError(new ClipError('SYSTEM', `cannot write the result to stdout: ${error.message}`, { cause: error }), false);
  process.exit(EXIT_FAILED);
});

async function main(): Promise<void> {
  const args = process.argv.slice(2);
  // The version needs no command, and all of them together load koffi.
  if (args[0] !== '--version' && args[0] !== '-V') await registerCommands(program, args);
  await program.parseAsync(process.argv);
}

/** Node throws this for any relative path if the current directory has been removed. */
function explained(error: unknown): unknown {
  if ((error as NodeJS.ErrnoException | null)?.syscall !== 'uv_cwd') return error;
  return new ClipError('NOT_FOUND', 'the current directory has been removed, so relative paths lead nowhere', {
    cause: error,
    hint: 'cd elsewhere first, or give absolute paths',
  });
}

main().catch((thrown: unknown) => {
  const error = explained(thrown);

  if (error instanceof CommanderError) {
    // `run` has another exit code for wrong flags than the programs that it runs, as in docker.
    const usage = process.argv[2] === 'run' ? EXIT_NOT_RUN : EXIT_USAGE;
    process.exitCode = error.exitCode === 0 ? 0 : usage;
  } else {
    printError(error, process.argv.includes('--verbose'));
    process.exitCode = exitCodeOf(error);
  }
});
