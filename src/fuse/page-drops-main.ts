/**
 * The program behind dropPages: ranges on standard input, the connection as descriptor 3 and, if the kernel itself shows the image, its root
 * as descriptor 4.
 */
import { closeSync, constants, openSync, readFileSync } from 'node:fs';
import { dropCachedPages } from '../linux/index.js';
import type { PageDrops } from './page-drops.js';
import { dropFilePages } from './replies.js';

const CONNECTION = 3;
const ROOT = 4;

const { ranges, files } = JSON.parse(readFileSync(0, 'utf8')) as PageDrops;
for (const { nid, offset, length } of ranges) dropFilePages(CONNECTION, nid, offset, length);
// What the image's files have was copied from the connection's.
for (const { path, offset, length } of files) {
  const place = Buffer.concat([Buffer.from(`/proc/self/fd/${ROOT}`), Buffer.from(path, 'latin1')]);
  const fd = openSync(place, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  dropCachedPages(fd, offset, length);
  closeSync(fd);
}
