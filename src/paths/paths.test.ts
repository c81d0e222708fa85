import {
  chmodSync,
  chownSync,
  closeSync,
  constants,
  existsSync,
  lchownSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { HOSTILE, hostileDirectory, swapForLink } from '../../test/support/hostile.js';
import { ClipError } from '../bytes/index.js';
import { descriptorPath, OwnDirectory, openPlace } from './index.js';

const root = process.getuid?.() === 0;
let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'clip-paths-'));
  chmodSync(dir, 0o755);
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function placeOf(path: string): string {
  const { fd, path: found } = openPlace(path);
  try {
    expect(readlinkSync(descriptorPath(fd))).toBe(found);
    return found;
  } finally {
    closeSync(fd);
  }
}

function refusal(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    return error instanceof ClipError
      ? `${error.code}: ${error.message}`
      : String((error as NodeJS.ErrnoException).code);
  }
  return 'accepted';
}

describe('openPlace', () => {
  it('finds the real path, by this user’s links of any shape', () => {
    mkdirSync(join(dir, 'a/b/c'), { recursive: true });
    symlinkSync('a/b', join(dir, 'relative'));
    symlinkSync(join(dir, 'a'), join(dir, 'absolute'));
    symlinkSync('../../a/./b//c/', join(dir, 'a/b/up'));
    expect(placeOf('/')).toBe('/');
    expect(placeOf('//tmp/..')).toBe('/');
    expect(placeOf(join(dir, 'a/b/'))).toBe(join(dir, 'a/b'));
    expect(placeOf(join(dir, 'relative/c'))).toBe(join(dir, 'a/b/c'));
    expect(placeOf(join(dir, 'absolute/b'))).toBe(join(dir, 'a/b'));
    expect(placeOf(join(dir, 'relative/up'))).toBe(join(dir, 'a/b/c'));
  });

  it('says what is not there, is no directory, or leads in a circle, and keeps no descriptor', () => {
    writeFileSync(join(dir, 'file'), '');
    symlinkSync('circle', join(dir, 'circle'));
    symlinkSync('file', join(dir, 'link'));
    const before = openDescriptors();
    expect(refusal(() => openPlace(join(dir, 'none/x')))).toBe('ENOENT');
    expect(refusal(() => openPlace(join(dir, 'file')))).toBe('ENOTDIR');
    expect(refusal(() => openPlace(join(dir, 'link')))).toBe('ENOTDIR');
    expect(refusal(() => openPlace(join(dir, 'circle')))).toMatch(/^NOT_FOUND: .* circle of symbolic links/);
    expect(refusal(() => openPlace('relative'))).toBe('undefined');
    expect(openDescriptors()).toBe(before);
  });

  it.skipIf(!root)('follows no link of another user, whoever owns the directory that it lies in', () => {
    mkdirSync(join(dir, 'victim'));
    const theirs = hostileDirectory(join(dir, 'theirs'));
    symlinkSync(join(dir, 'victim'), join(theirs, 'link'));
    lchownSync(join(theirs, 'link'), HOSTILE.uid, HOSTILE.gid);
    symlinkSync(join(dir, 'victim'), join(theirs, 'moved')); // root's link, which they moved here
    symlinkSync(join(dir, 'victim'), join(dir, 'planted'));
    lchownSync(join(dir, 'planted'), HOSTILE.uid, HOSTILE.gid);
    for (const link of ['theirs/link', 'theirs/moved', 'planted']) {
      expect(refusal(() => openPlace(join(dir, link)))).toBe(
        `PERMISSION: ${join(dir, link)} leads through ${join(dir, link)}, a symbolic link that another user controls`,
      );
    }
    // A directory of theirs is a place like any other.
    expect(placeOf(theirs)).toBe(theirs);
    mkdirSync(join(dir, 'open'));
    chmodSync(join(dir, 'open'), 0o777);
    symlinkSync(join(dir, 'victim'), join(dir, 'open/link'));
    expect(refusal(() => openPlace(join(dir, 'open/link')))).toMatch(/^PERMISSION/);
    chmodSync(join(dir, 'open'), 0o1777);
    expect(placeOf(join(dir, 'open/link'))).toBe(join(dir, 'victim'));
  });

  it.skipIf(!root)('never leads to a victim while a parent is swapped for a link (300 tries)', async () => {
    mkdirSync(join(dir, 'victim/inside'), { recursive: true });
    const theirs = hostileDirectory(join(dir, 'theirs'));
    const stop = await swapForLink(theirs, 'parent', join(dir, 'victim'), 'inside');
    const victim = readIdentity(join(dir, 'victim/inside'));
    let reached = 0;
    try {
      // On a busy machine the other process swaps nothing for a while.
      for (let i = 0; i < 300 || (reached === 0 && i < 200_000); i++) {
        const outcome = refusal(() => {
          const { fd } = openPlace(join(theirs, 'parent/inside'));
          const found = readIdentity(descriptorPath(fd));
          closeSync(fd);
          expect(found).not.toEqual(victim);
          reached++;
        });
        if (outcome !== 'accepted') expect(outcome).toMatch(/^(PERMISSION: |ENOENT|ENOTDIR|EINVAL)/);
      }
    } finally {
      await stop();
    }
    expect(reached).toBeGreaterThan(0);
  });

  it('makes what is missing for this user alone', () => {
    const { fd } = openPlace(join(dir, 'x/y/z'), { make: true });
    closeSync(fd);
    expect(readIdentity(join(dir, 'x/y')).mode).toBe(0o700);
  });
});

describe('OwnDirectory', () => {
  it('reaches its files by descriptor, wherever its path leads meanwhile', () => {
    const own = OwnDirectory.open(join(dir, 'own'), { make: true });
    own.replace('list', 'first');
    renameSync(join(dir, 'own'), join(dir, 'moved'));
    mkdirSync(join(dir, 'own'));
    own.replace('list', 'second');
    expect(own.read('list')).toBe('second');
    expect(own.read('none')).toBeNull();
    expect(readFileSync(join(dir, 'moved/list'), 'utf8')).toBe('second');
    expect(existsSync(join(dir, 'own/list'))).toBe(false);
    own.close();
  });

  it.skipIf(!root)('refuses a directory of another user, or one that others may write to', () => {
    const theirs = hostileDirectory(join(dir, 'theirs'));
    expect(refusal(() => OwnDirectory.open(theirs))).toBe(
      `PERMISSION: ${theirs} belongs to user ${HOSTILE.uid}, not to user 0`,
    );
    for (const mode of [0o777, 0o1777, 0o770, 0o702]) {
      chmodSync(join(dir), 0o755);
      const open = join(dir, `open-${mode}`);
      mkdirSync(open);
      chmodSync(open, mode);
      expect(refusal(() => OwnDirectory.open(open))).toMatch(/^PERMISSION: other users may write to /);
    }
    expect(refusal(() => OwnDirectory.open(join(dir, 'none')))).toMatch(/^NOT_FOUND/);
    writeFileSync(join(dir, 'file'), '');
    expect(refusal(() => OwnDirectory.open(join(dir, 'file')))).toMatch(/^NOT_FOUND: .* is not a directory/);
  });

  it.skipIf(!root)('opens no link, no second name and no file of another user, and truncates none of them', () => {
    writeFileSync(join(dir, 'precious'), 'precious');
    const path = join(dir, 'own');
    const own = OwnDirectory.open(path, { make: true });
    symlinkSync(join(dir, 'precious'), join(path, 'symbolic'));
    linkSync(join(dir, 'precious'), join(path, 'hard'));
    writeFileSync(join(path, 'theirs'), 'precious');
    chownSync(join(path, 'theirs'), HOSTILE.uid, HOSTILE.gid);
    const write = constants.O_RDWR | constants.O_CREAT | constants.O_TRUNC;
    for (const name of ['symbolic', 'hard', 'theirs']) {
      expect(refusal(() => own.open(name, write))).toBe(`PERMISSION: ${path}/${name} is not a plain file of this user`);
    }
    // A temporary file is made, never opened.
    symlinkSync(join(dir, 'precious'), join(path, 'list.new'));
    own.replace('list', 'content');
    expect(readFileSync(join(dir, 'precious'), 'utf8')).toBe('precious');
    expect(readFileSync(join(path, 'theirs'), 'utf8')).toBe('precious');
    own.close();
  });
});

function openDescriptors(): number {
  let count = 0;
  for (let fd = 0; fd < 200; fd++) if (existsSync(`/proc/self/fd/${fd}`)) count++;
  return count;
}

function readIdentity(path: string): { ino: number; dev: number; mode: number } {
  const { ino, dev, mode } = statSync(path);
  return { ino, dev, mode: mode & 0o777 };
}
