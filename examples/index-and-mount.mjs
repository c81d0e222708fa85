// Indexes an image and mounts it for as long as this program runs.
// Usage: node index-and-mount.mjs IMAGE ARCHIVE DIRECTORY
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createFromOCIImage, mountArchive } from 'clipfs';

const [imageRef, archivePath, mountPoint] = process.argv.slice(2);

const { size, inodes, layers } = await createFromOCIImage({
  imageRef,
  outputPath: archivePath,
  onWarning: (warning) => console.error(warning),
});
console.log(`${archivePath}: ${size} bytes for ${inodes} inodes in ${layers.length} layers`);

const mount = mountArchive({ archivePath, mountPoint });
await mount.start();
try {
  console.log(await readFile(join(mountPoint, 'etc/os-release'), 'utf8'));
  const { counters } = await mount.stats();
  console.log(`${counters.spansFetched} spans fetched in ${counters.requests} requests`);
} finally {
  await mount.unmount();
}
