import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { debianPackages, imagePath, kept, pythonRoot, serve } from './images.js';
import { WORKLOAD } from './starts.js';
import { type BenchContext, type BenchImage, run } from './support.js';

/** A program to start, and the Debian packages that its image has above the base layer. */
export interface Workload {
  readonly packages: readonly string[];
  /** Packages of PyPI, beside them. */
  readonly pip?: readonly string[];
  readonly command: readonly string[];
  /** Files of the image's last layer, by path. */
  readonly files?: Readonly<Record<string, string>>;
  /** It runs on a writable overlay above the image. */
  readonly writes?: boolean;
  /** An image that is made elsewhere, in place of one by packages and files. */
  readonly image?: (ctx: BenchContext) => Promise<WorkloadImage>;
  /** It takes too long to be measured with the others. */
  readonly onRequest?: boolean;
}

/** Each prints once, when it has done its work: that is when it is ready. */
export const WORKLOADS: Readonly<Record<string, Workload>> = {
  python: {
    packages: [],
    command: WORKLOAD,
    image: async (ctx) => ({ ...(await ctx.python()), rootfs: await pythonRoot(ctx) }),
  },
  node: {
    packages: ['nodejs', 'node-express', 'node-rxjs', 'node-react', 'webpack'],
    command: ['node', '/app/main.js'],
    files: {
      'app/main.js':
        "for (const name of ['express', 'rxjs', 'react', 'webpack', 'terser']) require(name);\nconsole.log('ready');\n",
    },
  },
  ruby: {
    packages: ['ruby'],
    command: ['ruby', '/app/main.rb'],
    files: { 'app/main.rb': 'require "json"\nrequire "set"\nrequire "net/http"\nputs "ready"\n' },
  },
  gcc: {
    packages: ['gcc', 'libc6-dev'],
    command: ['sh', '-c', 'gcc -o /tmp/main /app/main.c && /tmp/main'],
    files: { 'app/main.c': '#include <stdio.h>\nint main(void) { return puts("ready") < 0; }\n' },
  },
  java: { packages: ['default-jre-headless', 'ant'], command: ['ant', '-version'] },
  perl: {
    packages: ['perl', 'libwww-perl', 'libxml-parser-perl'],
    command: ['perl', '/app/main.pl'],
    files: {
      'app/main.pl': 'use LWP::UserAgent; use XML::Parser; use POSIX; use JSON::PP; use Encode;\nprint "ready\\n";\n',
    },
  },
  git: {
    packages: ['git'],
    command: [
      'sh',
      '-c',
      'cd /tmp && git init -q r && cd r && cp /app/a . && git add a && git -c user.name=a -c user.email=b commit -qm m && git log --oneline',
    ],
    files: { 'app/a': 'a\n' },
  },
  nginx: { packages: ['nginx-light'], command: ['sh', '-c', 'nginx -t 2>/tmp/out && cat /tmp/out'], writes: true },
  postgres: {
    packages: ['postgresql-15'],
    command: [
      'sh',
      '-c',
      'install -d -o postgres /data && setpriv --reuid=postgres --regid=postgres --clear-groups /usr/lib/postgresql/15/bin/initdb -D /data >/tmp/out && echo ready',
    ],
    writes: true,
  },
  torch: {
    packages: ['python3'],
    pip: ['torch'],
    command: ['python3', '-c', 'import torch; print("ready")'],
    onRequest: true,
  },
};

/** Runs a command with "$0" as its root, with what a container has: /proc, /dev and an empty /tmp. */
const ENTER = `set -e
mount -t tmpfs none "$0/tmp"
mount --bind /proc "$0/proc"
mount --bind /dev "$0/dev"
exec chroot "$0" "$@"`;
/** The same on a writable layer. */
const ENTER_OVERLAY = `set -e
lower=$0
mount -t tmpfs none /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o "lowerdir=$lower,upperdir=/mnt/upper,workdir=/mnt/work" none /mnt/root
mount --bind /proc /mnt/root/proc
mount --bind /dev /mnt/root/dev
exec chroot /mnt/root "$@"`;

/** The command line that runs a workload in a root. Its mounts are its own, and end with it. */
export function inside(root: string, { command, writes = false }: Workload): [string, string[]] {
  const script = writes ? ENTER_OVERLAY : ENTER;
  return ['unshare', ['--mount', '--propagation', 'private', 'sh', '-c', script, root, ...command]];
}

export interface WorkloadImage extends BenchImage {
  /** The image unpacked. */
  readonly rootfs: string;
}

/** By this machine's pip, for the Python that Debian's bookworm has; as pip does in an image, it compiles what it installs. */
async function pipInstall(rootfs: string, packages: readonly string[]): Promise<void> {
  const target = path.join(rootfs, 'usr/local/lib/python3.11/dist-packages');
  const only = ['--only-binary=:all:', '--python-version', '3.11', '--no-cache-dir', '--no-compile'];
  await run('python3', ['-m', 'pip', 'install', '--quiet', ...only, '--target', target, ...packages]);
  // Some files of such packages are for newer Pythons only: what cannot be compiled stays as it is.
  await run('chroot', [rootfs, 'sh', '-c', `python3 -m compileall -q -j 0 /${path.relative(rootfs, target)} || true`]);
}

/** The image of a workload in three layers: Debian's base, its packages, its own files. Made once and kept. */
export async function workloadImage(host: BenchContext, name: string): Promise<WorkloadImage> {
  const workload = WORKLOADS[name]!;
  if (workload.image !== undefined) return await workload.image(host);
  await debianPackages('mmdebstrap', 'umoci');
  const base = await kept(imagePath('starts-base.tar'), async (temporary) => {
    host.log('making the base layer with mmdebstrap (once)');
    await run('mmdebstrap', ['--variant=minbase', '--format=tar', 'bookworm', temporary]);
  });
  const directory = await kept(imagePath(`starts-${name}`), async (temporary) => {
    host.log(`making the image of ${name} (once)`);
    const layout = path.join(temporary, 'oci');
    const bundle = path.join(temporary, 'bundle');
    const rootfs = path.join(bundle, 'rootfs');
    const image = `${layout}:${name}`;
    await mkdir(temporary);
    await run('umoci', ['init', '--layout', layout]);
    await run('umoci', ['new', '--image', image]);
    await run('umoci', ['raw', 'add-layer', '--image', image, base]);
    await run('umoci', ['unpack', '--image', image, bundle]);
    const packages = workload.packages.join(' ');
    await run('unshare', [
      ...['--mount', '--propagation', 'private', 'sh', '-c'],
      `set -e; mount --bind /proc "$0/proc"; mount --bind /dev "$0/dev"; mount -t tmpfs none "$0/tmp"; cp /etc/resolv.conf "$0/etc/"
       chroot "$0" sh -c 'export DEBIAN_FRONTEND=noninteractive; apt-get update -qq &&
         apt-get install -y -qq --no-install-recommends ${packages} && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin'`,
      rootfs,
    ]);
    if (workload.pip !== undefined) await pipInstall(rootfs, workload.pip);
    await run('umoci', ['repack', '--refresh-bundle', '--image', image, bundle]);
    for (const [file, text] of Object.entries(workload.files ?? {})) {
      await mkdir(path.dirname(path.join(rootfs, file)), { recursive: true });
      await writeFile(path.join(rootfs, file), text);
    }
    if (workload.files !== undefined) await run('umoci', ['repack', '--image', image, bundle]);
    await run('umoci', ['gc', '--layout', layout]);
    await rename(rootfs, path.join(temporary, 'rootfs'));
    await rm(bundle, { recursive: true });
  });
  const served = await serve(host, path.join(directory, 'oci'), name, []);
  return { ...served, rootfs: path.join(directory, 'rootfs') };
}
