import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { describeCommand, leavesOf } from '../../src/cli/command-tree.js';
import { registerCommands } from '../../src/cli/commands/index.js';
import { completionScript } from '../../src/cli/completion.js';
import { manualPage } from '../../src/cli/manual-page.js';
import { PROGRAM, runProgram } from '../support/clipctl.js';

// Completions and the manual page against the commands that they are made from, in the real shells and man(1).

const program = new Command('clipctl');
await registerCommands(program, []);
const described = describeCommand(program);
const names = program.commands.map((command) => command.name());

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'clip-completion-'));
  for (const shell of ['bash', 'zsh', 'fish'] as const) {
    writeFileSync(join(directory, shell), completionScript(shell, described));
  }
});
afterAll(() => rmSync(directory, { recursive: true }));

/** What bash would offer for a line. */
function bash(...words: string[]): string[] {
  const script = `
    source ${join(directory, 'bash')}
    COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 ))
    _clipctl
    printf '%s\\n' "\${COMPREPLY[@]}"`;
  return execFileSync('bash', ['-c', script, 'bash', ...words], { encoding: 'utf8', cwd: directory })
    .trim()
    .split('\n');
}

function fish(line: string): string[] {
  const script = `source ${join(directory, 'fish')}; complete -C '${line}'`;
  const said = execFileSync('fish', ['--no-config', '-c', script], { encoding: 'utf8', cwd: directory });
  return said
    .trim()
    .split('\n')
    .map((one) => one.split('\t')[0]!);
}

describe('completion', () => {
  it('is printed by clipctl completion, and another shell is a usage error', async () => {
    const ran = await runProgram(process.execPath, [PROGRAM, 'completion', 'bash']);
    expect(ran).toMatchObject({ code: 0, stderr: '' });
    expect(ran.stdout).toContain('complete -o filenames -F _clipctl clipctl');
    const json = await runProgram(process.execPath, [PROGRAM, 'completion', 'bash', '--json']);
    expect(JSON.parse(json.stdout)).toEqual({ shell: 'bash', script: ran.stdout });
    expect(await runProgram(process.execPath, [PROGRAM, 'completion', 'tcsh'])).toMatchObject({ code: 2, stdout: '' });
  });

  it('of bash offers every command, and the flags and values of each', () => {
    expect(bash('clipctl', '')).toEqual(expect.arrayContaining([...names, 'help', '--version']));
    expect(bash('clipctl', 'moun')).toEqual(['mount']);
    expect(bash('clipctl', 'cache', '')).toEqual(expect.arrayContaining(['stat', 'prune', 'verify']));
    expect(bash('clipctl', 'cache', 'prune', '--mo')).toEqual(['--mounted']);
    expect(bash('clipctl', 'mount', '--pull', '')).toEqual(['always', 'missing', 'never']);
    expect(bash('clipctl', 'mount', '--clip', 'zs')).toEqual(['zsh']); // a file of the directory
    expect(bash('clipctl', 'list', '--js')).toEqual(['--json']); // an alias
    for (const { words, options } of leavesOf(described)) {
      const offered = bash('clipctl', ...words.split(' '), '--');
      expect({ words, offered }).toEqual({ words, offered: expect.arrayContaining(options.map(({ long }) => long)) });
    }
  });

  it('of fish offers the same', () => {
    expect(fish('clipctl ')).toEqual(expect.arrayContaining(names));
    expect(fish('clipctl cache ')).toEqual(expect.arrayContaining(['stat', 'prune', 'verify']));
    expect(fish('clipctl mount --pull ')).toEqual(expect.arrayContaining(['always', 'missing', 'never']));
    for (const { words, options } of leavesOf(described)) {
      const offered = fish(`clipctl ${words} --`);
      expect({ words, offered }).toEqual({ words, offered: expect.arrayContaining(options.map(({ long }) => long)) });
    }
  });

  it('of zsh is a script that zsh takes, with every command and flag', () => {
    const script = `autoload -U compinit; compinit -u -D; source ${join(directory, 'zsh')}; print $_comps[clipctl]`;
    const ran = spawnSync('zsh', ['-f', '-c', script], { encoding: 'utf8' });
    expect({ stdout: ran.stdout.trim(), stderr: ran.stderr }).toEqual({ stdout: '_clipctl', stderr: '' });
    const text = completionScript('zsh', described);
    for (const { options } of leavesOf(described)) for (const { long } of options) expect(text).toContain(`'*${long}[`);
  });
});

describe('the manual page', () => {
  const page = manualPage(described, '1.2.3');

  it('is one that man and groff take without a warning', () => {
    const file = join(directory, 'clipctl.1');
    writeFileSync(file, page);
    const env = { ...process.env, LC_ALL: 'C.UTF-8', MANWIDTH: '100', MAN_KEEP_FORMATTING: '' };
    const ran = spawnSync('man', ['--warnings', '-E', 'UTF-8', '-l', '-Tutf8', file], { encoding: 'utf8', env });
    expect({ status: ran.status, stderr: ran.stderr }).toEqual({ status: 0, stderr: '' });
    expect(ran.stdout).toContain('clipctl - run container images without pulling them');
  });

  it('has every command with its flags', () => {
    for (const { words, options } of leavesOf(described)) {
      expect(page).toContain(`.SS "clipctl ${words.replaceAll('-', '\\-')}"`);
      for (const { long } of options) expect(page).toContain(`\\fB${long.replaceAll('-', '\\-')}\\fR`);
    }
  });

  it('is part of the package', async () => {
    const { readFileSync } = await import('node:fs');
    const shipped = readFileSync(join(PROGRAM, '../../dist/lib/clipctl.1'), 'utf8');
    const { version } = JSON.parse(readFileSync(join(PROGRAM, '../../package.json'), 'utf8')) as { version: string };
    expect(shipped).toBe(manualPage(described, version));
  });
});
