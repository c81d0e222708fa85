import type { Command } from 'commander';
import { addCommonFlags, type CommonFlags, inheritFlags } from './common-flags.js';
import { checkMandatory, deferChecks, takeOperands } from './operand.js';
import { setOutput } from './output.js';
import { applySettings } from './settings.js';
import { keepUsageErrors } from './usage-error.js';

/**
 * What all commands have in common, derived from their definitions: the common flags, operands in the place of options, the environment
 * and the configuration files.
 * @param everything a program with all commands, for names that the asked command does not know
 */
export function prepareCommands(program: Command, everything: () => Promise<Command>): void {
  addCommonFlags(program);
  eachCommand(program, (command) => {
    deferChecks(command);
    keepUsageErrors(command);
  });
  program.hook('preAction', async (_, command) => {
    inheritFlags(command);
    setOutput(command.opts<CommonFlags>()); // for errors in what follows
    takeOperands(command);
    await applySettings(command, everything);
    setOutput(command.opts<CommonFlags>());
    checkMandatory(command);
  });
}

function eachCommand(command: Command, work: (command: Command) => void): void {
  work(command);
  for (const below of command.commands) eachCommand(below, work);
}
