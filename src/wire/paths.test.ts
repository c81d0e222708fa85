import { expect, test } from 'vitest';
import { isWithin, mountAt, mountOf, mountSource, ownClipMount, parseSource } from './paths.js';

test.each([
  ['/a', '/a', true],
  ['/a/b', '/a', true],
  ['/ab', '/a', false],
  ['/a', '/a/b', false],
  ['/anything', '/', true],
])('%s within %s: %s', (path, directory, expected) => {
  expect(isWithin(path, directory)).toBe(expected);
});

const mount = (id: number, mountPoint: string, type = 'ext4') => ({
  id,
  parent: 1,
  device: `0:${id}`,
  root: '/',
  mountPoint,
  options: [],
  type,
  source: '',
  superOptions: ['rw'],
});

test('of mounts stacked at one place the last is on top; a path is on the deepest mount', () => {
  const mounts = [mount(1, '/'), mount(2, '/mnt'), mount(3, '/mnt', 'fuse.clip'), mount(4, '/mnt2')];
  expect(mountAt(mounts, '/mnt')?.id).toBe(3);
  expect(mountAt(mounts, '/mnt/x')).toBeUndefined();
  expect(mountOf(mounts, '/mnt/x')?.id).toBe(3);
  expect(mountOf(mounts, '/mnt2x')?.id).toBe(1);
});

test('the source of a mount names its clipd, whatever the root is called', () => {
  for (const root of ['/run/clip', '/tmp/a b#c#1'])
    expect(parseSource(mountSource(root, 12))).toEqual({ root, id: 12 });
  for (const other of ['clip', 'clip:x#1', '/dev/sda1', 'clip:/run/clip#']) expect(parseSource(other)).toBeNull();
});

test('a source is believed of mounts that this user made, and of no other’s', () => {
  const uid = process.geteuid?.() ?? 0;
  const forged = { ...mount(5, '/home/m/x', 'fuse.clip'), source: 'clip:/home/m/root#1' };
  expect(ownClipMount({ ...forged, superOptions: ['rw', `user_id=${uid}`, 'group_id=0'] })).toEqual({
    root: '/home/m/root',
    id: 1,
  });
  for (const superOptions of [['rw'], [`user_id=${uid + 1}`], [`user_id=${uid}0`]]) {
    expect(ownClipMount({ ...forged, superOptions })).toBeNull();
  }
  expect(ownClipMount({ ...forged, type: 'fuse', superOptions: [`user_id=${uid}`] })).toBeNull();
});
