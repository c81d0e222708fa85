// Runs a command of an image in a container: the image mounted, a writable overlay on top, and runc. Needs root and runc.
// Usage: node runc.mjs IMAGE DIRECTORY [COMMAND…]     (DIRECTORY: for the bundle; default command: the image's own)
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { createFromOCIImage, mountArchive } from 'clipfs';

const [imageRef, directory, ...command] = process.argv.slice(2);
const bundle = resolve(directory);
const [lower, upper, work, rootfs] = ['lower', 'upper', 'work', 'rootfs'].map((name) => join(bundle, name));
for (const path of [lower, upper, work, rootfs]) await mkdir(path, { recursive: true });

const archivePath = join(bundle, 'image.clip');
const { image } = await createFromOCIImage({ imageRef, outputPath: archivePath });
const { Env = [], Entrypoint = [], Cmd = [], WorkingDir = '/' } = image.config.config ?? {};

// `runc spec` writes runc's default configuration: what is in the image's own goes into it.
await rm(join(bundle, 'config.json'), { force: true });
execFileSync('runc', ['spec', '--bundle', bundle]);
const spec = JSON.parse(await readFile(join(bundle, 'config.json'), 'utf8'));
spec.process.terminal = false;
spec.process.args = command.length > 0 ? command : [...(Entrypoint ?? []), ...(Cmd ?? [])];
spec.process.env = Env;
spec.process.cwd = WorkingDir || '/';
spec.root = { path: rootfs, readonly: false };
await writeFile(join(bundle, 'config.json'), JSON.stringify(spec, null, 2));

const mount = mountArchive({ archivePath, mountPoint: lower });
await mount.start();
try {
  execFileSync('mount', [
    '-t',
    'overlay',
    '-o',
    `lowerdir=${lower},upperdir=${upper},workdir=${work}`,
    'overlay',
    rootfs,
  ]);
  try {
    // This program may block here: the mount is served by another process.
    const { status } = spawnSync('runc', ['run', '--bundle', bundle, `clip-example-${process.pid}`], {
      stdio: 'inherit',
    });
    process.exitCode = status ?? 125;
  } finally {
    execFileSync('umount', [rootfs]);
  }
} finally {
  await mount.unmount();
}
