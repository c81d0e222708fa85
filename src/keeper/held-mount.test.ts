import { constants, openSync } from 'node:fs';
import { expect, test } from 'vitest';
import type { MountInfo } from '../linux/index.js';
import { HeldMount } from './held-mount.js';

function listed(id: number, device: string, mountPoint: string): MountInfo {
  return { id, device, mountPoint, type: 'fuse.clip', source: 'clip', root: '/' } as unknown as MountInfo;
}

test('a mount of another program that got the id of one that has gone is not taken for it', () => {
  const held = HeldMount.in(openSync('/', constants.O_RDONLY), 'place', 86);
  expect(held.find([listed(85, '0:62', '/anchor'), listed(86, '0:62', '/place')])?.mountPoint).toBe('/place');
  expect(held.find([listed(86, '0:62', '/moved')])?.mountPoint).toBe('/moved');
  expect(held.find([listed(85, '0:62', '/anchor')])).toBeNull();
  expect(held.find([listed(86, '0:71', '/run/podman/shm')])).toBeNull();
  held.close();
});
