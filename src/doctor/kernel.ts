import { existsSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import { type Finding, failed, limited, ok } from './finding.js';

/** The content of a small file of the kernel; null where there is none. */
export function kernelFile(path: string): string | null {
  try {
    return readFileSync(path, 'latin1').trim();
  } catch {
    return null;
  }
}

/** Whether a kernel's version is at least MAJOR.MINOR. */
function isAtLeast(version: string, major: number, minor: number): boolean {
  const [, a = '0', b = '0'] = /^(\d+)\.(\d+)/.exec(version) ?? [];
  return Number(a) > major || (Number(a) === major && Number(b) >= minor);
}

/** A file system that the kernel has, or has as a module that it loads when it is first mounted. */
function hasFileSystem(name: string, version: string): boolean {
  if ((kernelFile('/proc/filesystems') ?? '').split('\n').some((line) => line.split('\t').at(-1) === name)) return true;
  const modules = `/lib/modules/${version}`;
  return ['modules.dep', 'modules.builtin'].some((list) =>
    (kernelFile(`${modules}/${list}`) ?? '').includes(`/${name}.ko`),
  );
}

/** The kernel, and what it can do for mounts. Where a version is named, it is the first that has the feature. */
export function examineKernel(version = release()): Finding[] {
  return [
    isAtLeast(version, 5, 4)
      ? ok('kernel', `Linux ${version}`)
      : failed('kernel', `Linux ${version}`, 'mounts need Linux 5.4 or later'),
    isAtLeast(version, 6, 9)
      ? ok('fuse-resend', 'a new server gets the unanswered requests of one that died (Linux 6.9)')
      : limited(
          'fuse-resend',
          `Linux ${version} cannot send requests again`,
          'Linux 6.9 can: after the death of a server a few reads may wait until they are interrupted',
        ),
    passthrough(version),
    erofs(version),
  ];
}

/** For information: a cache file is not the file that is read, at its offsets (docs/internals/fuse.md, "Passthrough"). */
function passthrough(version: string): Finding {
  const name = 'fuse-passthrough';
  const config = ['/proc/config', `/boot/config-${version}`].map(kernelFile).find((text) => text !== null);
  const has = isAtLeast(version, 6, 9) && config?.includes('CONFIG_FUSE_PASSTHROUGH=y') !== false;
  return ok(name, `${has ? 'this kernel has it' : 'this kernel has none'}; mounts of clip do not use it`);
}

function erofs(version: string): Finding {
  const name = 'kernel-erofs';
  if (!hasFileSystem('erofs', version)) {
    return limited(name, 'this kernel has no EROFS', 'mounts use FUSE; a kernel with CONFIG_EROFS_FS has it');
  }
  return isAtLeast(version, 6, 12)
    ? ok(name, 'mounts the trees of archives from files (Linux 6.12)')
    : limited(name, `EROFS of Linux ${version}`, 'from Linux 6.12 on it mounts the trees of archives; mounts use FUSE');
}

/** Limits of the kernel's FUSE. */
export function examineFuseLimits(): Finding {
  const limits = [
    ['background requests of a user', '/sys/module/fuse/parameters/max_user_bgreq'],
    ['pages of a request', '/proc/sys/fs/fuse/max_pages_limit'],
    ['seconds until a request times out (0: never)', '/proc/sys/fs/fuse/max_request_timeout'],
  ] as const;
  const found = limits.flatMap(([what, path]) => {
    const value = kernelFile(path);
    return value === null ? [] : [`${value} ${what}`];
  });
  const timeout = Number(kernelFile('/proc/sys/fs/fuse/max_request_timeout') ?? 0);
  const text = found.join(', ') || "the kernel's own";
  // The kernel ends the whole connection then, and not the one request.
  return timeout > 0 && timeout < 300
    ? limited(
        'fuse-limits',
        text,
        'the kernel ends a mount whose read takes longer: --read-timeout must be shorter, or the limit 0',
      )
    : ok('fuse-limits', text);
}

export function examineOverlay(fuseOverlayfs: string | null, version = release()): Finding {
  const root = process.getuid?.() === 0;
  const kernel = hasFileSystem('overlay', version);
  if (root && kernel) return ok('overlay', "the kernel's overlayfs");
  if (fuseOverlayfs !== null) return ok('overlay', fuseOverlayfs);
  const hint = 'containers need it, mounts do not: install the package fuse-overlayfs';
  return limited('overlay', kernel ? 'the overlayfs of the kernel is for root' : 'there is none', hint);
}

export function examineUserNamespaces(): Finding {
  const name = 'user-namespaces';
  const most = Number(kernelFile('/proc/sys/user/max_user_namespaces') ?? 0);
  const hint = 'containers of users need them, those of root do not';
  if (!existsSync('/proc/self/ns/user') || most === 0) return limited(name, 'none', hint);
  if (kernelFile('/proc/sys/kernel/unprivileged_userns_clone') === '0') {
    return limited(name, 'only root may make them', `${hint}: sysctl kernel.unprivileged_userns_clone=1`);
  }
  if (kernelFile('/proc/sys/kernel/apparmor_restrict_unprivileged_userns') === '1') {
    return limited(
      name,
      'AppArmor restricts them',
      `${hint}: sysctl kernel.apparmor_restrict_unprivileged_userns=0, or a profile`,
    );
  }
  return ok(name, `at most ${most}`);
}

export function examineCgroups(): Finding {
  if (existsSync('/sys/fs/cgroup/cgroup.controllers')) {
    const controllers = kernelFile('/sys/fs/cgroup/cgroup.controllers') ?? '';
    return ok('cgroup', `version 2 (${controllers || 'no controllers'})`);
  }
  if (existsSync('/sys/fs/cgroup/unified')) {
    return limited('cgroup', 'versions 1 and 2 mixed', 'crun refuses this: use --runtime runc');
  }
  return existsSync('/sys/fs/cgroup/memory')
    ? ok('cgroup', 'version 1')
    : limited('cgroup', 'no cgroups at /sys/fs/cgroup', 'the limits --memory and --cpus of containers need them');
}
