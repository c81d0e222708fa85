import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { registerCommands } from '../../src/cli/commands/index.js';
import { Clipctl } from '../support/clipctl.js';

const program = new Command();
await registerCommands(program, []);
const names = program.commands.map((command) => command.name());

/** Every command that does something: "index", "cache ls". */
const leaves = program.commands.flatMap((command) =>
  command.commands.length === 0
    ? [{ words: command.name(), command }]
    : command.commands.map((sub) => ({ words: `${command.name()} ${sub.name()}`, command: sub })),
);

describe('clipctl help', () => {
  let clipctl: Clipctl;
  beforeAll(async () => {
    clipctl = await Clipctl.create();
  });
  afterAll(() => clipctl.close());

  it('lists every command on stdout, exit code 0', async () => {
    const ran = await clipctl.run(['help']);
    expect(ran).toMatchObject({ code: 0, stderr: '' });
    for (const name of names) expect(ran.stdout).toMatch(new RegExp(`^  ${name}\\b`, 'm'));
  });

  const all = [...new Set([...names, ...leaves.map(({ words }) => words)])];
  it.each(all)('%s --help prints the same as help', async (words) => {
    const name = words.split(' ');
    const [a, b] = await Promise.all([clipctl.run([...name, '--help']), clipctl.run(['help', ...name])]);
    expect(a).toMatchObject({ code: 0, stderr: '' });
    expect(a.stdout).toContain(`Usage: clipctl ${words}`);
    expect(b.stdout).toBe(a.stdout);
  });

  it.each(leaves)('$words takes the common flags', ({ command }) => {
    const common = ['--root', '--cache-dir', '--json', '--quiet', '--verbose', '--log-level', '--progress'];
    expect(command.options.map((option) => option.long)).toEqual(expect.arrayContaining(common));
  });

  it('every argument and every flag has a description', () => {
    const bare = leaves.flatMap(({ words, command }) =>
      [
        ...command.registeredArguments.map((one) => ({ name: one.name(), description: one.description })),
        ...command.options.map((one) => ({ name: one.flags, description: one.description })),
      ]
        .filter(({ description }) => description === '')
        .map(({ name }) => `${words} ${name}`),
    );
    expect(bare).toEqual([]);
  });

  it('flags stand in groups, those of every command last', async () => {
    const { stdout } = await clipctl.run(['mount', '--help']);
    const headings = [...stdout.matchAll(/^(\S.*):$/gm)].map(([, heading]) => heading);
    expect(headings).toEqual([
      'Arguments',
      'Options',
      'The archive or image',
      'Reaching registries',
      'Archives in S3 (s3://BUCKET/KEY)',
      "The container's writable layer, with --cid",
      'The container, with --cid',
      'Where the data is',
      'If this command starts clipd',
      'Every command',
    ]);
  });

  it('common flags may stand before the command; those after it win', async () => {
    const [before, between, after] = await Promise.all([
      clipctl.run(['--json', '--root', '/nowhere/a', 'version']),
      clipctl.run(['cache', '--cache-dir', '/nowhere/b', 'stat']),
      clipctl.run(['--root', '/nowhere/a', 'health', '--root', '/nowhere/c']),
    ]);
    expect(JSON.parse(before.stdout)).toMatchObject({ node: process.versions.node });
    expect(between.stdout + between.stderr).toContain('/nowhere/b');
    expect(after.stderr).toContain('/nowhere/c');
  });

  it('docs/cli.md describes every command and every flag', () => {
    const page = readFileSync(new URL('../../../docs/cli.md', import.meta.url), 'utf8');
    const sectionOf = (heading: string): string => {
      const start = page.indexOf(`\n## ${heading}\n`);
      const next = page.indexOf('\n## ', start + 1);
      return start < 0 ? '' : page.slice(start, next < 0 ? page.length : next);
    };
    const registries = 'Reaching registries';
    const head = page.slice(0, page.indexOf('\n## '));
    const everywhere = new Set(program.options.map(({ long }) => long!).filter((flag) => head.includes(`\`${flag}`)));
    const missing = leaves.flatMap(({ words, command }) => {
      const start = page.indexOf(`\n## clipctl ${words}\n`);
      const own = sectionOf(`clipctl ${words}`);
      const section = own.includes(registries) ? own + sectionOf(registries) : own;
      const flags = command.options
        .map((option) => option.long ?? option.short!)
        .filter((flag) => !section.includes(flag) && !everywhere.has(flag));
      return start < 0 ? [words] : flags.map((flag) => `${words} ${flag}`);
    });
    expect(missing).toEqual([]);
  });

  it('docs/cli.md has the exit code of every error code', () => {
    const page = readFileSync(new URL('../../../docs/cli.md', import.meta.url), 'utf8');
    const rows = [...page.matchAll(/^\| (\d+) \| `([A-Z_]+)` \|/gm)].map(([, exit, code]) => [code, Number(exit)]);
    expect(Object.fromEntries(rows)).toEqual(EXIT_CODES);
    expect(new Set(Object.values(EXIT_CODES)).size).toBe(Object.keys(EXIT_CODES).length);
  });

  it('version and --version', async () => {
    const { version } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as {
      version: string;
    };
    expect((await clipctl.run(['--version'])).stdout).toBe(`${version}\n`);
    expect(await clipctl.json('version')).toMatchObject({ clip: version, node: process.versions.node });
  });

  it.each([
    ['no command', []],
    ['an unknown command', ['frobnicate']],
    ['an unknown flag', ['version', '--frobnicate']],
    ['a missing flag', ['index', '--out', 'x.clip']],
    ['a missing argument', ['umount']],
    ['a checkpoint out of range', ['index', '--image', 'a', '--out', 'b', '--checkpoint', '65']],
    ['a checkpoint that is no number', ['index', '--image', 'a', '--out', 'b', '--checkpoint', 'many']],
    ['too many arguments', ['umount', 'a', 'b']],
  ])('usage: %s is exit code 2, on stderr', async (_, args) => {
    const ran = await clipctl.run(args);
    expect(ran).toMatchObject({ code: 2, stdout: '' });
    expect(ran.stderr).not.toBe('');
    expect(ran.stderr).not.toContain('    at ');
  });
});
