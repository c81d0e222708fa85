import {
  chmodSync,
  chownSync,
  constants,
  linkSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { closeFd, openBeneath, SystemCallError, withFilePermissionsOf } from './index.js';

let root: string;
let directory: number;

beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'clip-beneath-'));
  mkdirSync(join(root, 'in/sub'), { recursive: true });
  writeFileSync(join(root, 'secret'), 'secret');
  writeFileSync(join(root, 'in/sub/file'), 'content');
  writeFileSync(join(root, 'in/sub/private'), 'private', { mode: 0o600 });
  writeFileSync(join(root, 'in/sub/group'), 'group', { mode: 0o640 });
  chownSync(join(root, 'in/sub/group'), 0, 4242);
  symlinkSync('../../secret', join(root, 'in/sub/link'));
  symlinkSync('sub', join(root, 'in/alias'));
  chmodSync(root, 0o755);
  directory = openSync(join(root, 'in'), constants.O_RDONLY | constants.O_DIRECTORY);
});
afterAll(() => {
  closeFd(directory);
  rmSync(root, { recursive: true });
});

function codeOf(open: () => number): string {
  try {
    closeFd(open());
    return 'opened';
  } catch (error) {
    if (error instanceof SystemCallError) return error.code;
    throw error;
  }
}

describe('openBeneath', () => {
  test('opens a file below the directory', () => {
    const fd = openBeneath(directory, 'sub/file', constants.O_RDONLY);
    expect(readFileSync(fd, 'utf8')).toBe('content');
    closeFd(fd);
  });

  test('follows no symbolic link, and leaves the directory by none of the ways there are', () => {
    for (const [path, code] of [
      ['sub/link', 'ELOOP'],
      ['alias/file', 'ELOOP'],
      ['../secret', 'EXDEV'],
      ['sub/../../secret', 'EXDEV'],
      [join(root, 'secret'), 'EXDEV'],
      ['missing', 'ENOENT'],
    ] as const) {
      expect([path, codeOf(() => openBeneath(directory, path, constants.O_RDONLY))]).toEqual([path, code]);
    }
    const proc = openSync('/proc/self/fd', constants.O_RDONLY | constants.O_DIRECTORY);
    expect(codeOf(() => openBeneath(proc, String(directory), constants.O_RDONLY))).toBe('ELOOP');
    closeFd(proc);
  });

  test.runIf(process.getuid?.() === 0)('opens with the permissions of a user, and has its own again afterwards', () => {
    const user = { uid: 65534, gid: 65534 };
    const open = (path: string, as?: Parameters<typeof withFilePermissionsOf>[0]): string =>
      codeOf(() => openBeneath(directory, path, constants.O_RDONLY, { user: as }));
    expect(open('sub/file', user)).toBe('opened');
    expect(open('sub/private', user)).toBe('EACCES');
    expect(open('sub/group', user)).toBe('EACCES');
    expect(open('sub/group', { ...user, groups: [4242] })).toBe('opened');
    expect(open('sub/private')).toBe('opened');
    expect(() =>
      withFilePermissionsOf(user, () => {
        linkSync(join(root, 'secret'), join(root, 'in/sub/hard'));
      }),
    ).toThrow(/EACCES|EPERM/);
    expect(process.getgroups?.()).toContain(0);
    expect(open('sub/private')).toBe('opened');
  });
});
