import type { Command, Option } from 'commander';

/** A command as completions and the manual page show it. */
export interface DescribedCommand {
  /** "cache ls" */
  readonly words: string;
  readonly aliases: readonly string[];
  readonly description: string;
  /** "<dir>", "[ref]" */
  readonly operands: readonly string[];
  readonly options: readonly DescribedOption[];
  readonly commands: readonly DescribedCommand[];
}

export interface DescribedOption {
  readonly short: string | null;
  readonly long: string;
  /** "<dir>"; null: it takes no value. */
  readonly value: string | null;
  readonly choices: readonly string[];
  readonly description: string;
}

function optionOf(option: Option): DescribedOption {
  return {
    short: option.short ?? null,
    long: option.long ?? option.short ?? '',
    value: /[<[].*$/.exec(option.flags)?.[0] ?? null,
    choices: option.argChoices ?? [],
    description: option.description,
  };
}

/** What Commander knows of a program and of all its commands, in the order in which they were registered. */
export function describeCommand(command: Command, words = ''): DescribedCommand {
  const below = command.commands.map((sub) => describeCommand(sub, `${words} ${sub.name()}`.trim()));
  return {
    words,
    aliases: command.aliases(),
    description: command.description(),
    operands: command.registeredArguments.map((argument) => {
      const name = `${argument.name()}${argument.variadic ? '...' : ''}`;
      return argument.required ? `<${name}>` : `[${name}]`;
    }),
    options: command.options.filter((option) => !option.hidden).map(optionOf),
    commands: below,
  };
}

/** It and all commands below it that do something. */
export function leavesOf(command: DescribedCommand): DescribedCommand[] {
  return command.commands.length === 0 ? [command] : command.commands.flatMap(leavesOf);
}
