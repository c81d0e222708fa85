import { Argument, type Command, CommanderError, type Option } from 'commander';
import { ClipError } from '../bytes/index.js';
import { looksLikeArchive } from './archive-or-image.js';

/**
 * An argument in the place of an option: `mount FILE DIR` is `mount --clip FILE --at DIR`. It is not there if one of its options is
 * given, so `mount --clip FILE DIR` has one argument, the directory.
 */
export class Operand extends Argument {
  /** Names of the options that it stands for: `clip` and `image`, of which its text decides, or one option. */
  readonly fills: readonly string[];
  /** Options in whose presence it is not expected. */
  readonly unless: readonly string[];

  constructor(name: string, description: string, fills: readonly string[], unless: readonly string[] = []) {
    super(`[${name}]`, description);
    this.fills = fills;
    this.unless = unless;
  }

  #isGiven(command: Command): boolean {
    return [...this.fills, ...this.unless].some((name) => command.getOptionValueSource(name) === 'cli');
  }

  /** Takes the first of `words` as the value of its option, unless that is given. */
  take(command: Command, words: string[]): void {
    if (words.length === 0 || this.#isGiven(command)) return;
    const text = words.shift()!;
    const both = this.fills.includes('clip') && this.fills.includes('image');
    const name = both ? (looksLikeArchive(text) ? 'clip' : 'image') : this.fills[0]!;
    const option = command.options.find((one) => one.attributeName() === name);
    try {
      command.setOptionValueWithSource(name, option === undefined ? text : parseValue(option, text), 'cli');
    } catch (error) {
      if (!(error instanceof CommanderError)) throw error;
      throw new ClipError('USAGE', `${this.name()} "${text}": ${error.message}`, {
        hint: usageOf(command),
        cause: error,
      });
    }
  }
}

/** A value as the option's parser gives it. @throws CommanderError as for the option itself */
export function parseValue(option: Option, text: string, before?: unknown): unknown {
  return option.parseArg === undefined ? text : option.parseArg(text, before);
}

export const archiveOrImage = (): Operand =>
  new Operand('file|image', 'the archive, or an image (as --clip and --image)', ['clip', 'image']);

/** Options that a command cannot do without; checked when the operands, the environment and the configuration have spoken. */
const mandatory = new WeakMap<Command, readonly Option[]>();
const required = new WeakMap<Argument, boolean>();
const operands = new WeakMap<Command, readonly Operand[]>();

export function operandsOf(command: Command): readonly Operand[] {
  return operands.get(command) ?? [];
}

/** Takes from Commander the checks that it would make before the operands are known. */
export function deferChecks(command: Command): void {
  mandatory.set(
    command,
    command.options.filter((option) => option.mandatory),
  );
  for (const option of command.options) option.mandatory = false;
  operands.set(
    command,
    command.registeredArguments.filter((argument) => argument instanceof Operand),
  );
  if (operandsOf(command).length === 0) return;
  command.usage(['[options]', ...command.registeredArguments.map(shown)].join(' '));
  for (const argument of command.registeredArguments) {
    required.set(argument, argument.required);
    argument.required = false;
  }
}

function shown(argument: Argument): string {
  const name = argument.name() + (argument.variadic ? '...' : '');
  return argument.required || argument instanceof Operand ? `<${name}>` : `[${name}]`;
}

/** The command with its arguments, as its help shows it. */
function usageOf(command: Command): string {
  return `usage: ${wordsOf(command)} ${command.usage()}`;
}

/** ["cache", "prune"]. */
export function namesOf(command: Command): string[] {
  return command.parent === null ? [] : [...namesOf(command.parent), command.name()];
}

/** "clipctl cache prune". */
export function wordsOf(command: Command): string {
  return ['clipctl', ...namesOf(command)].join(' ');
}

/** Gives each operand its word, and the words that are left to the command's own arguments. */
export function takeOperands(command: Command): void {
  if (operandsOf(command).length === 0) return;
  const words = [...command.args];
  const missing: Argument[] = [];
  // What the action gets: its own arguments only, in their order.
  const own: unknown[] = [];
  for (const argument of command.registeredArguments) {
    if (argument instanceof Operand) argument.take(command, words);
    else if (argument.variadic) own.push(words.splice(0));
    else {
      if (words.length === 0 && required.get(argument)) missing.push(argument);
      own.push(words.shift());
    }
  }
  if (missing.length > 0) {
    throw new ClipError('USAGE', `missing argument: ${missing[0]!.name()}`, { hint: usageOf(command) });
  }
  if (words.length > 0) {
    throw new ClipError('USAGE', `unexpected argument: ${words[0]}`, { hint: usageOf(command) });
  }
  command.processedArgs = own;
  // The action is called with as many values as there are arguments.
  const registered: { registeredArguments: Argument[] } = command as never;
  registered.registeredArguments = command.registeredArguments.filter((argument) => !(argument instanceof Operand));
}

/** @throws ClipError USAGE that names the option, and the operand that stands for it */
export function checkMandatory(command: Command): void {
  const missing = mandatory.get(command)?.find((one) => command.getOptionValue(one.attributeName()) === undefined);
  if (missing === undefined) return;
  const operand = operandsOf(command).find(({ fills }) => fills.includes(missing.attributeName()));
  const what = operand === undefined ? `option: ${missing.flags}` : `argument: ${operand.name()} (or ${missing.long})`;
  throw new ClipError('USAGE', `missing ${what}, ${missing.description}`, { hint: usageOf(command) });
}
