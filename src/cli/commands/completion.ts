import { Argument, type Command } from 'commander';
import { describeCommand } from '../command-tree.js';
import { completionScript, SHELLS, type Shell } from '../completion.js';

/** @param every this process has registered only the command that it runs */
async function completion(shell: Shell, every: () => Promise<Command>): Promise<void> {
  process.stdout.write(completionScript(shell, describeCommand(await every())));
}

export function registerCompletion(program: Command, every: () => Promise<Command>): void {
  program
    .command('completion')
    .addArgument(new Argument('<shell>', 'the shell').choices(SHELLS))
    .description('print a script that completes commands and flags: source <(clipctl completion bash)')
    .action((shell: Shell) => completion(shell, every));
}
