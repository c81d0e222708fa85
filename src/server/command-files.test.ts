import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { expect, it, vi } from 'vitest';
import { file, symlink, tar } from '../../test/support/tar.js';
import { readerOf } from '../../test/support/tree.js';
import { pathsOf } from '../erofs/index.js';
import { CommandFiles, ReaderCommands, wordsOf } from './command-files.js';

const programs = ['usr/bin/env', 'usr/bin/gcc', 'usr/bin/cat', 'opt/bin/node', 'usr/bin/install', 'usr/bin/sh'];
const files = [
  'usr/lib/gcc/12/libgcc.a',
  'usr/lib/libc.a',
  'usr/lib/libc.so',
  'app/main.c',
  'app/server.js',
  'etc/passwd',
  'lib/a.jar',
  'lib/b.jar',
];
const reader = readerOf(tar(...[...programs, ...files].map((path) => file(path, 'x')), symlink('bin', 'usr/bin')));
const image = (config: object): { config: Record<string, unknown> } => ({ config: { config } });

function filesOf(argv: readonly string[], config: object = {}, begun = false): string[] {
  const found = new CommandFiles(image(config), reader).of(argv, begun);
  const paths = pathsOf(reader, new Set(found));
  return found.map((nid) => `${paths.get(nid)}`);
}

it('finds programs in PATH and files by their paths', () => {
  expect(filesOf(['gcc', '-o', '/tmp/a', '/app/main.c'])).toEqual(['/usr/bin/gcc', '/app/main.c']);
  expect(filesOf(['node', 'server.js'], { Env: ['PATH=/opt/bin:/usr/bin'], WorkingDir: '/app' })).toEqual([
    ...['/opt/bin/node', '/app/server.js'],
  ]);
  expect(filesOf(['java', '-cp', '/lib/a.jar:/lib/../lib/b.jar'])).toEqual(['/lib/a.jar', '/lib/b.jar']);
  expect(filesOf(['/bin/cat', '../../etc/passwd'])).toEqual(['/usr/bin/cat', '/etc/passwd']);
});

it('finds libraries as a linker does', () => {
  const argv = [
    'ld',
    '-L/usr/lib/gcc/12',
    '-L/usr/lib/gcc/../.',
    '-lgcc',
    '-lc',
    '-lgcc',
    '-lmissing',
    '-l../../etc/passwd',
  ];
  expect(filesOf(argv)).toEqual(['/usr/lib/gcc/12/libgcc.a', '/usr/lib/libc.so']);
});

it('finds the program behind one that runs it, and takes its arguments for no programs', () => {
  expect(filesOf(['chroot', '/mnt', 'gcc', 'install', '/app/main.c'])).toEqual(['/usr/bin/gcc', '/app/main.c']);
  expect(filesOf(['sh', '-c', 'gcc /app/main.c && cat /etc/passwd'])).toEqual([
    ...['/usr/bin/sh', '/usr/bin/gcc', '/app/main.c', '/usr/bin/cat', '/etc/passwd'],
  ]);
});

it('goes on to the program behind one that the image has, and asks for that one only if it is still to run', () => {
  expect(filesOf(['env', '-i', 'A=b', 'gcc', 'cat', '/app/main.c'])).toEqual([
    ...['/usr/bin/env', '/usr/bin/gcc', '/app/main.c'],
  ]);
  expect(filesOf(['/usr/bin/env', 'gcc', '/app/main.c'], {}, true)).toEqual(['/usr/bin/gcc', '/app/main.c']);
  expect(filesOf(['nice', 'env', 'gcc'], {}, true)).toEqual(['/usr/bin/env', '/usr/bin/gcc']);
  // A program that runs by itself may have come without its reader having waited: it leads to its libraries.
  expect(filesOf(['gcc', '/app/main.c'], {}, true)).toEqual(['/usr/bin/gcc', '/app/main.c']);
});

it('puts the entrypoint of the image before words that do not name another', () => {
  const config = image({ Entrypoint: ['/entry'], Cmd: ['serve'] });
  expect(wordsOf(config)).toEqual(['/entry', 'serve']);
  expect(wordsOf(config, ['', 'other'])).toEqual(['/entry', 'other']);
  expect(wordsOf(config, ['gcc', '-v'])).toEqual(['gcc', '-v']);
  expect(wordsOf(image({ Cmd: 'node app.js' }))).toEqual(['/bin/sh', '-c', 'node app.js']);
  expect(wordsOf(image({ Entrypoint: 5, Cmd: { a: 1 } }))).toEqual([]);
});

it('reads the command of a process once, and none of one that is gone', async () => {
  const command = [process.execPath, '-e', 'process.stdin.resume()', 'a', ''];
  const child = spawn('unshare', ['--mount', ...command]);
  const commands = new ReaderCommands(() => true);
  const found: (readonly string[])[] = [];
  const look = async (pid: number): Promise<void> => {
    commands.look(pid, (words) => found.push(words));
    // A thread that has just been looked at is not looked at again.
    await new Promise((resolve) => setTimeout(resolve, 20));
  };
  try {
    await vi.waitUntil(async () => {
      await look(child.pid!);
      return found.some(([program]) => program === command[0]);
    });
    await look(child.pid!);
    // At first it may be seen while it is to run its program yet.
    expect(found.filter(([program]) => program !== 'unshare')).toEqual([command]);
  } finally {
    const ended = once(child, 'exit');
    child.kill();
    await ended;
  }
  const { length } = found;
  await look(child.pid!);
  commands.look(0, (words) => found.push(words));
  expect(found).toHaveLength(length);
});

it('looks at no process where the files that commands name are not fetched, as with --no-prefetch', async () => {
  const found: (readonly string[])[] = [];
  let wanted = false;
  const commands = new ReaderCommands(() => wanted);
  commands.look(process.pid, (words) => found.push(words));
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(found).toEqual([]);
  // Were it remembered as looked at, it would not be looked at now.
  wanted = true;
  commands.look(process.pid, (words) => found.push(words));
  await vi.waitUntil(() => found.length > 0);
});
