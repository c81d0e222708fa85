import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { InRoot } from './in-root.js';

let directory: string;
let root: InRoot;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'clip-in-root-'));
  writeFileSync(join(directory, 'secret'), 'outside');
  const image = join(directory, 'image');
  mkdirSync(join(image, 'etc'), { recursive: true });
  mkdirSync(join(image, 'data'));
  writeFileSync(join(image, 'secret'), 'inside');
  writeFileSync(join(image, 'data/file'), 'content');
  symlinkSync('../../../../secret', join(image, 'etc/up'));
  symlinkSync('/secret', join(image, 'etc/absolute'));
  symlinkSync('/proc/self/root/etc/hostname', join(image, 'etc/magic'));
  symlinkSync('loop', join(image, 'etc/loop'));
  symlinkSync('/data', join(image, 'alias'));
  symlinkSync(directory, join(image, 'out'));
  execFileSync('mkfifo', [join(image, 'etc/pipe')]);
  root = new InRoot(image);
});
afterAll(() => {
  root.close();
  rmSync(directory, { recursive: true, force: true });
});

describe('an image’s symlinks lead nowhere else', () => {
  const text = (path: string): string | null => root.read(path, 1000)?.toString() ?? null;
  test('"..", absolute links and links of /proc end inside', () => {
    expect(text('/etc/up')).toBe('inside');
    expect(text('/etc/absolute')).toBe('inside');
    expect(text('../../secret')).toBe('inside');
    expect(text('/etc/magic')).toBeNull();
    expect(text('/etc/loop')).toBeNull();
    expect(text('/out/secret')).toBeNull();
    expect(text('/alias/file')).toBe('content');
  });
  test('a pipe is no file, and nobody waits for its other end', () => {
    expect(text('/etc/pipe')).toBeNull();
    expect(text('/etc')).toBeNull();
  });
  test('no more is read than was asked for', () => {
    expect(root.read('/secret', 3)?.toString()).toBe('ins');
  });
  test('what is made is made inside', () => {
    symlinkSync(directory, join(directory, 'image/made'));
    root.makeFile('/alias/new/a');
    expect(statSync(join(directory, 'image/data/new/a')).size).toBe(0);
    root.makeDirectory('/../escaped/deep');
    expect(existsSync(join(directory, 'escaped'))).toBe(false);
    expect(statSync(join(directory, 'image/escaped/deep')).isDirectory()).toBe(true);
    root.makeFile('/secret');
    expect(text('/secret')).toBe('inside');
    chmodSync(join(directory, 'image/etc'), 0o755);
  });
});
