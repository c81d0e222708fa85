// Runs commands of an image in containers, with a writable layer over it. Needs root, and runc or crun.
// Usage: node runc.mjs IMAGE [COMMAND…]     (default command: the image's own)
import { spawnSync } from 'node:child_process';
import { createBundle, OverlayMounter, runContainer } from 'clipfs';

const [image, ...args] = process.argv.slice(2);

// At once: the archive is made or found, the image mounted, the container run and taken down.
const { exitCode } = await runContainer({ image, args });
console.log(`exit code ${exitCode}`);

// Step by step: the bundle is there for any OCI runtime, and for changes of one's own.
const mounter = new OverlayMounter({ image, id: `clip-example-${process.pid}` });
try {
  const { bundle, rootfs, image: meta } = await mounter.mount();
  createBundle({ bundle, rootfs, image: meta, args, env: ['EXAMPLE=1'], net: 'none' });
  const { status } = spawnSync('runc', ['run', '--bundle', bundle, mounter.id], { stdio: 'inherit' });
  process.exitCode = status ?? 125;
} finally {
  await mounter.cleanup();
}
