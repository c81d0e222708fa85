import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setXattr } from '../../src/linux/index.js';
import { type Compression, type TestImage, writeImage } from './images.js';

/** An id that no other suite uses: runtimes and CNI plugins know the containers of all clipds on a machine. */
export const own = (id: string): string => `${id}-${process.pid}`;

/** A root file system in the making, out of what this machine has installed. */
export class Stage {
  readonly directory = mkdtempSync(join(tmpdir(), 'clip-stage-'));

  path(path: string): string {
    return join(this.directory, path);
  }

  directoryAt(path: string, mode = 0o755, uid = 0): this {
    mkdirSync(this.path(path), { recursive: true });
    chmodSync(this.path(path), mode);
    chownSync(this.path(path), uid, uid);
    return this;
  }

  file(path: string, content: string | Uint8Array, mode = 0o644, uid = 0): this {
    mkdirSync(dirname(this.path(path)), { recursive: true });
    writeFileSync(this.path(path), content);
    chownSync(this.path(path), uid, uid);
    chmodSync(this.path(path), mode);
    return this;
  }

  link(path: string, target: string): this {
    mkdirSync(dirname(this.path(path)), { recursive: true });
    symlinkSync(target, this.path(path));
    return this;
  }

  mode(path: string, mode: number): this {
    chmodSync(this.path(path), mode);
    return this;
  }

  xattr(path: string, name: string, value: Uint8Array): this {
    setXattr(this.path(path), name, value);
    return this;
  }

  /** A program of this machine with the shared libraries that it is linked with. */
  program(from: string, to = from): this {
    this.copy(realpathSync(from), to);
    const listed = spawnSync('ldd', [realpathSync(from)], { encoding: 'utf8' });
    if (listed.status !== 0) return this; // static
    for (const [, path] of listed.stdout.matchAll(/(?:=> |^\s+)(\/\S+) \(0x/gm)) {
      if (!existsSync(this.path(path!))) this.copy(realpathSync(path!), path!);
    }
    return this;
  }

  /** A file or directory of this machine. */
  copy(from: string, to = from): this {
    mkdirSync(dirname(this.path(to)), { recursive: true });
    cpSync(from, this.path(to), { recursive: true, preserveTimestamps: true, verbatimSymlinks: true });
    return this;
  }

  /** busybox, a user "app" of the groups app and wheel, and what a container needs of directories. */
  base(): this {
    for (const path of ['bin', 'etc', 'proc', 'sys', 'dev', 'root', 'usr/bin', 'var', 'run']) this.directoryAt(path);
    this.directoryAt('tmp', 0o1777).directoryAt('home/app', 0o755, 1000);
    this.copy(busybox(), '/bin/busybox');
    const applets = execFileSync(busybox(), ['--list'], { encoding: 'utf8' }).trim().split('\n');
    for (const applet of applets) if (applet !== 'busybox') this.link(`bin/${applet}`, 'busybox');
    this.file('etc/passwd', 'root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:App:/home/app:/bin/sh\n');
    this.file('etc/group', 'root:x:0:\napp:x:1000:\nwheel:x:10:root,app\n');
    return this;
  }

  /** With owners, modes and xattrs as they are. */
  tar(): Buffer {
    const file = `${this.directory}.tar`;
    const args = [
      '--xattrs',
      '--xattrs-include=*',
      '--numeric-owner',
      '--sort=name',
      '-C',
      this.directory,
      '-cf',
      file,
      '.',
    ];
    execFileSync('tar', args);
    const bytes = readFileSync(file);
    rmSync(file);
    return bytes;
  }

  image(config: Record<string, unknown>, compression: Compression = 'gzip', architecture?: string): TestImage {
    try {
      return writeImage([this.tar()], { config, compression, ...(architecture === undefined ? {} : { architecture }) });
    } finally {
      rmSync(this.directory, { recursive: true, force: true });
    }
  }
}

function busybox(): string {
  const path = ['/bin/busybox', '/usr/bin/busybox'].find((one) => existsSync(one));
  if (path === undefined) throw new Error('busybox-static is not installed: scripts/debian-packages.sh');
  return path;
}

export const RUNTIMES = ['runc', 'crun'] as const;

/**
 * How a user calls a runtime by hand. crun refuses machines that have controllers in cgroup version 2 and hierarchies of version 1: there
 * it needs a mount namespace that shows the latter only.
 */
export function byHand(runtime: (typeof RUNTIMES)[number]): readonly [string, ...string[]] {
  const unified = '/sys/fs/cgroup/unified/cgroup.controllers';
  if (runtime !== 'crun' || !existsSync(unified) || readFileSync(unified, 'utf8').trim() === '') return [runtime];
  const inside = 'umount -l /sys/fs/cgroup/unified; exec "$@"';
  return ['unshare', '--mount', '--propagation', 'slave', 'sh', '-c', inside, 'sh', runtime];
}
