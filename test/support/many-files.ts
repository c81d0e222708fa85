// node many-files.js COUNT: tar entries to columns, tree and EROFS image; prints the peak of resident memory as JSON.
import { writeErofs } from '../../src/erofs/index.js';
import { EntryColumns, TarParser } from '../../src/tar/index.js';
import { TreeBuilder } from '../../src/tree/index.js';
import { header } from './tar.js';

const count = Number(process.argv[2]);
const entries = new EntryColumns();
const parser = new TarParser({ entries });
const started = performance.now();
for (let i = 0; i < count; i++) {
  const name = `app/node_modules/package-${Math.floor(i / 60)}/lib/internal/file-${i % 60}-name.js`;
  parser.push(header({ name, size: 0, mtime: 1_700_000_000 + (i % 997), uid: 1000 }));
}
parser.finish();
const parsed = performance.now();
const builder = new TreeBuilder();
builder.applyLayer(0, entries);
const { image, stats } = writeErofs(builder.finish(), [{ tag: 'layer', blocks: count }]);
const seconds = { parse: (parsed - started) / 1000, build: (performance.now() - parsed) / 1000 };
// maxRSS is in KiB on Linux.
const peak = process.resourceUsage().maxRSS * 1024;
process.stdout.write(JSON.stringify({ peak, image: image.length, inodes: stats.inodes, seconds }));
