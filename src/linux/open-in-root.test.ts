import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import * as flags from './flags.js';
import { openInRoot } from './open-in-root.js';

const RENAME = `const { renameSync } = require('node:fs');
process.chdir(process.argv[1]);
process.stdout.write('!');
for (;;) { renameSync('x', 'y'); renameSync('y', 'x'); }`;

const dir = mkdtempSync(join(tmpdir(), 'clip-in-root-'));
let renamer: ChildProcess | null = null;
afterEach(() => {
  renamer?.kill('SIGKILL');
  rmSync(dir, { recursive: true, force: true });
});

test('a path with ".." is found while directories are renamed elsewhere on the machine', async () => {
  for (const name of ['root/a/b', 'other/x']) mkdirSync(join(dir, name), { recursive: true });
  writeFileSync(join(dir, 'root/f'), 'found');
  const child = spawn(process.execPath, ['-e', RENAME, join(dir, 'other')], { stdio: ['ignore', 'pipe', 'ignore'] });
  renamer = child;
  await new Promise((resolve) => child.stdout.once('data', resolve));
  const root = openSync(join(dir, 'root'), flags.O_PATH);
  const found = new Set<number>();
  for (let i = 0; i < 20_000; i++) {
    const fd = openInRoot(root, 'a/b/../../a/b/../../f', flags.O_PATH);
    found.add(Math.sign(fd));
    if (fd >= 0) closeSync(fd);
  }
  closeSync(root);
  expect([...found]).toEqual([1]);
}, 30_000);
