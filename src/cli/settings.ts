import { type Command, CommanderError, type Option } from 'commander';
import { ClipError } from '../bytes/index.js';
import { type ConfigFile, readConfigFiles, type Table } from './config-file.js';
import { namesOf, operandsOf, parseValue } from './operand.js';

/**
 * Values of flags that stand in no command line. Every flag has a variable (`--cache-size`: `CLIP_CACHE_SIZE`) and a key (`cache-size`),
 * because both are derived from its name. Order: docs/cli.md, "Settings".
 */
export interface Setting {
  readonly value: unknown;
  /** The variable, or the path of the file. */
  readonly from: string;
  readonly source: 'env' | 'config';
}

export function variableOf(option: Option): string {
  return variableNamed(keyOf(option));
}

const variableNamed = (key: string): string => `CLIP_${key.replaceAll('-', '_').toUpperCase()}`;

export function keyOf(option: Option): string {
  return (option.long ?? option.short ?? '').replace(/^-+/, '');
}

/** A flag of two long names (`--net`, `--network`) is set by either: Commander keeps the first one as its short name. */
function keysOf(option: Option): string[] {
  const { short } = option;
  return short?.startsWith('--') === true && option.long !== undefined
    ? [keyOf(option), short.slice(2)]
    : [keyOf(option)];
}

/** Flags that have no setting: they print and end. */
const WITHOUT_SETTING = new Set(['help', 'version']);

export function settable(command: Command): Option[] {
  return command.options.filter((option) => !WITHOUT_SETTING.has(keyOf(option)));
}

/** What the environment, else the files, say of an option; undefined: nothing. @throws ClipError USAGE naming where it stands */
export function settingOf(command: Command, option: Option, files: readonly ConfigFile[]): Setting | undefined {
  const keys = keysOf(option);
  for (const variable of keys.map(variableNamed)) {
    const text = process.env[variable];
    if (text !== undefined && text !== '')
      return { value: fromText(option, text, variable), from: variable, source: 'env' };
  }
  for (const { path, table } of files) {
    const raw = table === null ? undefined : lookUp(table, namesOf(command), keys);
    if (raw !== undefined) return { value: fromToml(option, raw, path), from: path, source: 'config' };
  }
  return undefined;
}

function isTable(value: unknown): value is Table {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

/** Of the most particular table that has the key: `[cache.prune]`, `[cache]`, the file itself. */
function lookUp(table: Table, words: readonly string[], keys: readonly string[]): unknown {
  const [word, ...rest] = words;
  const below = word === undefined ? undefined : Object.hasOwn(table, word) ? table[word] : undefined;
  const found = isTable(below) ? lookUp(below, rest, keys) : undefined;
  if (found !== undefined) return found;
  const key = keys.find((each) => Object.hasOwn(table, each));
  const own = key === undefined ? undefined : table[key];
  return isTable(own) ? undefined : own;
}

const takesValue = (option: Option): boolean => option.required || option.optional;

function fromText(option: Option, text: string, from: string): unknown {
  if (takesValue(option)) return parsed(option, [text], from);
  if (/^(?:1|true|yes|on)$/i.test(text)) return !option.negate;
  if (/^(?:0|false|no|off)$/i.test(text)) return option.negate;
  throw new ClipError('USAGE', `${from}: 1 or 0 expected, found "${text}"`, { hint: `unset ${from}, or set it to 1` });
}

function fromToml(option: Option, raw: unknown, path: string): unknown {
  const from = `${path}: ${keyOf(option)}`;
  if (!takesValue(option)) {
    if (typeof raw === 'boolean') return option.negate ? !raw : raw;
    throw new ClipError('USAGE', `${from}: true or false expected, found ${JSON.stringify(raw)}`, {
      hint: `edit ${path}`,
    });
  }
  const values = Array.isArray(raw) ? raw : [raw];
  if (values.length === 0 || values.some((value) => typeof value !== 'string' && typeof value !== 'number')) {
    const found = JSON.stringify(raw);
    throw new ClipError('USAGE', `${from}: a string or a number expected, found ${found}`, { hint: `edit ${path}` });
  }
  return parsed(option, values.map(String), from);
}

function parsed(option: Option, texts: readonly string[], from: string): unknown {
  let value: unknown;
  try {
    for (const text of texts) value = parseValue(option, text, value);
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    throw new ClipError('USAGE', `${from}: ${error.message}, found "${texts.join(' ')}"`, {
      cause: error,
      hint: 'clipctl config shows all settings and where they come from',
    });
  }
  if (texts.length > 1 && !Array.isArray(value)) {
    throw new ClipError('USAGE', `${from}: one value expected, found ${texts.length}`, {
      hint: 'only flags that may be repeated take a list',
    });
  }
  return value;
}

/** Of the command that this process runs. */
const origins = new Map<string, Setting>();

/** Where the value of a flag comes from, if from no command line. */
export function originOf(name: string): Setting | undefined {
  return origins.get(name);
}

/** Gives the options that the command line did not set the values of the environment and the files. */
export async function applySettings(command: Command, everything: () => Promise<Command>): Promise<void> {
  const files = await readConfigFiles();
  await refuseUnknownKeys(files, command, everything);
  const decided = alreadyDecided(command);
  for (const option of settable(command)) {
    const name = option.attributeName();
    if (decided.has(name)) continue;
    const setting = settingOf(command, option, files);
    if (setting === undefined) continue;
    command.setOptionValueWithSource(name, setting.value, setting.source);
    origins.set(name, setting);
  }
}

/** Options that the command line set, and those that would contradict them: `--image` beside `--clip`. */
function alreadyDecided(command: Command): Set<string> {
  const byUser = (name: string): boolean => command.getOptionValueSource(name) === 'cli';
  const decided = new Set(command.options.map((option) => option.attributeName()).filter(byUser));
  for (const argument of operandsOf(command)) {
    const group = [...argument.fills, ...argument.unless];
    if (group.some(byUser)) for (const name of group) decided.add(name);
  }
  return decided;
}

interface KnownNames {
  /** Keys of the command and of those below it. */
  readonly keys: ReadonlySet<string>;
  readonly commands: ReadonlyMap<string, KnownNames>;
}

function knownNames(command: Command): KnownNames {
  const commands = new Map(command.commands.map((below) => [below.name(), knownNames(below)]));
  const keys = new Set(settable(command).flatMap(keysOf));
  for (const below of commands.values()) for (const key of below.keys) keys.add(key);
  return { keys, commands };
}

function unknownKey(table: Table, known: KnownNames, above: readonly string[] = []): readonly string[] | undefined {
  for (const [key, value] of Object.entries(table)) {
    const path = [...above, key];
    if (!isTable(value)) {
      if (!known.keys.has(key)) return path;
      continue;
    }
    const below = known.commands.get(key);
    const wrong = below === undefined ? path : unknownKey(value, below, path);
    if (wrong !== undefined) return wrong;
  }
  return undefined;
}

/** All commands are loaded only for a file that has a key which the asked one does not know. */
async function refuseUnknownKeys(
  files: readonly ConfigFile[],
  command: Command,
  everything: () => Promise<Command>,
): Promise<void> {
  let root = command;
  while (root.parent !== null) root = root.parent;
  let known = knownNames(root);
  let complete = false;
  for (const { path, table } of files) {
    if (table === null) continue;
    let wrong = unknownKey(table, known);
    if (wrong !== undefined && !complete) {
      known = knownNames(await everything());
      complete = true;
      wrong = unknownKey(table, known);
    }
    if (wrong === undefined) continue;
    const dashed = wrong.at(-1)!.replaceAll('_', '-').replace(/^-+/, '');
    throw new ClipError('USAGE', `${path}: unknown key "${wrong.join('.')}"`, {
      hint:
        dashed !== wrong.at(-1) && known.keys.has(dashed)
          ? `the key is ${dashed}`
          : 'keys are the names of flags without the dashes, tables are names of commands (clipctl help lists them)',
    });
  }
}
