/**
 * A FUSE server in a process of its own, for tests that kill it. Descriptor 3 is the connection; argv: tree, layer file, span
 * bytes, "fresh" | "resumed", "present" | "stuck" | "answer". "stuck" never answers a miss; "answer" reads the layer file for it.
 * Says "ready" once it serves, and a line for each miss.
 */
import { openSync, readFileSync, statSync } from 'node:fs';
import { ErofsReader } from '../../src/erofs/index.js';
import { FusePool, replyData } from '../../src/fuse/index.js';
import { dieWithParent, sys } from '../../src/linux/index.js';
import { sharedCopy, sharedLayer } from './fuse-plane.js';

const [treePath, layerPath, spanBytes, how, cache] = process.argv.slice(2) as [string, string, string, string, string];
const FUSE = 3;

dieWithParent();
const tree = sharedCopy(readFileSync(treePath));
const reader = new ErofsReader(new Uint8Array(tree));
const fd = openSync(layerPath, 'r');
const layer = sharedLayer(0, fd, statSync(layerPath).size, Number(spanBytes), cache === 'present');
const pool = new FusePool({
  onMiss(miss) {
    process.stdout.write(`miss ${miss.offset} ${miss.size}\n`);
    if (cache !== 'answer') return;
    const pieces: Buffer[] = [];
    reader.mapRange(miss.nid, miss.offset, miss.size, (index, offset, length) => {
      const piece = Buffer.alloc(length);
      if (index >= 0) sys.pread(fd, piece, length, offset);
      pieces.push(piece);
    });
    replyData(FUSE, miss.unique, pieces);
  },
  onInterrupt: () => false,
  onGone: () => void pool.close().then(() => process.exit(0)),
});
await pool.complete();
const { resent } = await pool.attach({
  id: 1,
  fd: FUSE,
  tree,
  layers: [layer],
  placement: null,
  resumed: how === 'resumed',
});
process.stdout.write(`ready ${resent}\n`);
