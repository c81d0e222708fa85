import { closeSync, mkdirSync, mkdtempSync, openSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { flags, mountFileSystem, mountIdOf, readMountInfo, unmount } from '../linux/index.js';
import { HeldMount } from './held-mount.js';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'clip-held-'));
});
afterEach(() => {
  for (const { mountPoint } of readMountInfo().reverse()) if (mountPoint.startsWith(dir)) unmount(mountPoint, 'lazy');
  rmSync(dir, { recursive: true });
});

function mountTmpfs(name: string): { readonly held: HeldMount; readonly id: number; readonly path: string } {
  const path = join(dir, name);
  mkdirSync(path, { recursive: true });
  mountFileSystem({ type: 'tmpfs', source: `test ${name}`, target: path, flags: flags.MS_NOSUID });
  const fd = openSync(path, flags.O_PATH);
  const id = mountIdOf(fd);
  closeSync(fd);
  return { held: HeldMount.in(openSync(dirname(path), flags.O_PATH), basename(path), id), id, path };
}

const isMounted = (path: string): boolean => readMountInfo().some((mount) => mount.mountPoint === path);

/** The kernel gives a mount's id to a later one: mounts until that has happened. */
function reuse(id: number): string {
  for (let i = 0; i < 100; i++) {
    const other = mountTmpfs(`other-${i}`);
    other.held.close();
    if (other.id === id) return other.path;
  }
  throw new Error(`id ${id} was not used again`);
}

describe.runIf(process.getuid?.() === 0)('a held mount', () => {
  it('is not the mount that got its id after it was unmounted', () => {
    for (const how of ['normal', 'lazy', 'by another program'] as const) {
      const { held, id, path } = mountTmpfs(`own-${how}`);
      if (how === 'by another program') unmount(path);
      else held.unmount(how);
      const other = reuse(id);
      expect(held.find(readMountInfo())).toBeNull();
      expect(() => held.unmount('lazy')).toThrow(/EINVAL/);
      expect(isMounted(other)).toBe(true);
      held.close();
    }
  });

  it('is unmounted where it is, not where its path leads', () => {
    mkdirSync(join(dir, 'a'));
    const own = mountTmpfs('a/inside');
    own.held.close();
    const held = HeldMount.listed(readMountInfo().find((mount) => mount.id === own.id)!);
    renameSync(join(dir, 'a'), join(dir, 'b'));
    mkdirSync(join(dir, 'a'));
    const other = mountTmpfs('a/inside');
    held.unmount('normal');
    expect([isMounted(join(dir, 'b/inside')), isMounted(other.path)]).toEqual([false, true]);
    held.close();
    other.held.close();
  });

  it('that another mount covers is left, with an error that names the other', () => {
    const { held, path } = mountTmpfs('covered');
    mountFileSystem({ type: 'tmpfs', source: 'above', target: path, flags: flags.MS_NOSUID });
    for (const how of ['normal', 'lazy'] as const) {
      expect(() => held.unmount(how)).toThrow(`${path} is covered by another mount (tmpfs, above)`);
    }
    unmount(path);
    const busy = openSync(path, 'r');
    expect(() => held.unmount('normal')).toThrow(/EBUSY/);
    held.unmount('lazy');
    closeSync(busy);
    expect(isMounted(path)).toBe(false);
    held.close();
  });
});
