import type { Command } from 'commander';
import { ClipError, printable } from '../../bytes/index.js';
import type { CommonFlags } from '../common-flags.js';
import type { ConfigFile } from '../config-file.js';
import { locate } from '../daemon-flags.js';
import { namesOf } from '../operand.js';
import { printResult } from '../output.js';
import { keyOf, originOf, settable, settingOf, variableOf } from '../settings.js';
import { formatTable } from '../units.js';

interface Row {
  readonly key: string;
  readonly value: unknown;
  readonly source: 'flag' | 'env' | 'config' | 'default';
  /** The variable or the file. */
  readonly from: string | null;
  /** The commands that it holds for; null: all. */
  readonly commands: readonly string[] | null;
}

/** Values that may hold a password. */
const SECRET: Readonly<Record<string, (value: string) => string>> = {
  creds: () => '***',
  env: (pair) => pair.replace(/=.*$/s, '=***'),
  'content-cache': (url) => url.replace(/\/\/[^/@]*@/, '//***@'),
};

function shown(key: string, value: unknown): unknown {
  const hide = SECRET[key];
  if (hide === undefined) return value;
  return Array.isArray(value) ? value.map((one) => hide(String(one))) : hide(String(value));
}

function leavesOf(command: Command): Command[] {
  return command.commands.length === 0 ? [command] : command.commands.flatMap(leavesOf);
}

const wordsOf = (command: Command): string => namesOf(command).join(' ');

/** The flags that every command has, with the values that hold for this one. */
async function commonRows(self: Command, flags: CommonFlags): Promise<Row[]> {
  const { root, cacheDir } = await locate(flags);
  const defaults: Readonly<Record<string, unknown>> = { root, cacheDir, logLevel: 'info', progress: 'auto' };
  return settable(self).map((option) => {
    const name = option.attributeName();
    const origin = originOf(name);
    const given = self.getOptionValueSource(name) === 'cli';
    return {
      key: keyOf(option),
      value: self.getOptionValue(name) ?? defaults[name] ?? false,
      source: origin?.source ?? (given ? 'flag' : 'default'),
      from: origin?.from ?? null,
      commands: null,
    };
  });
}

/** What environment and files say for single commands; equal settings in one row. */
function settingRows(commands: readonly Command[], common: ReadonlySet<string>, files: readonly ConfigFile[]): Row[] {
  const rows = new Map<string, Row & { commands: string[] }>();
  for (const command of commands) {
    for (const option of settable(command)) {
      const key = keyOf(option);
      const setting = common.has(key) ? undefined : settingOf(command, option, files);
      if (setting === undefined) continue;
      const value = shown(key, setting.value);
      const same = JSON.stringify([key, value, setting.from]);
      const row = rows.get(same) ?? { key, value, source: setting.source, from: setting.from, commands: [] };
      row.commands.push(wordsOf(command));
      rows.set(same, row);
    }
  }
  return [...rows.values()];
}

/** All options of one command: also those that nothing sets, with their variables. */
function optionRows(command: Command, common: ReadonlySet<string>, files: readonly ConfigFile[]): Row[] {
  return settable(command)
    .filter((option) => !common.has(keyOf(option)))
    .map((option) => {
      const key = keyOf(option);
      const setting = settingOf(command, option, files);
      const value = setting === undefined ? (option.defaultValue ?? null) : shown(key, setting.value);
      const source = setting?.source ?? 'default';
      return { key, value, source, from: setting?.from ?? variableOf(option), commands: [wordsOf(command)] };
    });
}

function why({ source, from }: Row): string {
  if (source === 'flag') return 'the command line';
  if (source === 'default') return from === null ? 'default' : `default; ${from} sets it`;
  return from ?? '';
}

async function run(words: readonly string[], flags: CommonFlags, self: Command, whole: Command): Promise<void> {
  const { readConfigFiles } = await import('../config-file.js');
  const files = await readConfigFiles();
  const common = await commonRows(self, flags);
  const keys = new Set(common.map(({ key }) => key));
  const leaves = leavesOf(whole);
  const asked = words.length === 0 ? undefined : leaves.find((command) => wordsOf(command) === words.join(' '));
  if (words.length > 0 && asked === undefined) {
    throw new ClipError('USAGE', `there is no command ${words.join(' ')}`, {
      hint: 'clipctl config shows settings; files and CLIP_… variables set them (clipctl config --help)',
    });
  }
  const rows = [
    ...common,
    ...(asked === undefined ? settingRows(leaves, keys, files) : optionRows(asked, keys, files)),
  ];
  const read = files.map(({ path, table }) => ({ path, exists: table !== null }));
  printResult({ files: read, settings: rows }, flags.json === true, () => {
    const lines = rows.map((row) => [
      row.key,
      row.value === null ? '–' : printable(String(row.value)),
      printable(why(row)),
      asked === undefined && row.commands !== null ? `for ${row.commands.join(', ')}` : '',
    ]);
    const about = read.map(({ path, exists }) => `${printable(path)}${exists ? '' : ' (not there)'}`);
    return `files: ${about.join(', ')}\n\n${formatTable(lines)}`;
  });
}

/** @param everything a program with all commands */
export function registerConfig(program: Command, everything: () => Promise<Command>): void {
  program
    .command('config')
    .description('show the settings that are in force, and where each comes from')
    .argument('[command...]', 'all flags of this command, with the variables that set them')
    .action(async (words: readonly string[], flags: CommonFlags, self: Command) =>
      run(words, flags, self, await everything()),
    );
}
