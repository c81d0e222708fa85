import { Argument, type Command } from 'commander';
import { describeCommand } from '../command-tree.js';
import type { CommonFlags } from '../common-flags.js';
import { completionScript, SHELLS, type Shell } from '../completion.js';
import { printResult } from '../output.js';

/** @param every this process has registered only the command that it runs */
async function completion(shell: Shell, flags: CommonFlags, every: () => Promise<Command>): Promise<void> {
  const script = completionScript(shell, describeCommand(await every()));
  if (flags.json === true) printResult({ shell, script }, true, () => script);
  else process.stdout.write(script);
}

export function registerCompletion(program: Command, every: () => Promise<Command>): void {
  program
    .command('completion')
    .addArgument(new Argument('<shell>', 'the shell').choices(SHELLS))
    .description('print a script that completes commands and flags: source <(clipctl completion bash)')
    .action((shell: Shell, flags: CommonFlags) => completion(shell, flags, every));
}
