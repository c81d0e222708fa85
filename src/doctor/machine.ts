import { closeSync, existsSync, mkdtempSync, rmdirSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findProgram } from '../container/index.js';
import { mountFuse, openFuseDevice, unmount } from '../linux/index.js';
import { probeKernelPlane } from '../plane/index.js';
import { type Finding, failed, limited, ok } from './finding.js';
import {
  examineCgroups,
  examineFuseLimits,
  examineKernel,
  examineOverlay,
  examineUserNamespaces,
  kernelFile,
} from './kernel.js';
import { examineCacheDirectory, examineRoot } from './storage.js';

export interface MachineOptions {
  readonly root: string;
  readonly cacheDir: string;
}

/** Everything that a mount or a container needs of this machine. Takes a few milliseconds. */
export function examineMachine({ root, cacheDir }: MachineOptions): Finding[] {
  return [
    node(),
    ...examineKernel(),
    ...fuse(),
    examineFuseLimits(),
    examineOverlay(findProgram('fuse-overlayfs')),
    examineUserNamespaces(),
    runtime(),
    examineCgroups(),
    openFiles(),
    examineRoot(root),
    ...examineCacheDirectory(cacheDir),
    plane(cacheDir),
  ];
}

function node(): Finding {
  const { version, arch, platform } = process;
  const [major = 0, minor = 0] = version.slice(1).split('.').map(Number);
  const found = `${version} for ${platform} ${arch}`;
  if (platform !== 'linux') return failed('node', found, 'clip needs Linux');
  return major > 20 || (major === 20 && minor >= 19)
    ? ok('node', found)
    : failed('node', found, 'clip needs Node 20.19 or later; the Debian package has one in it');
}

const IN_CONTAINER = 'in a container give it the device: --device /dev/fuse --cap-add SYS_ADMIN';

/** The device, the program that mounts for users, and a mount on trial. */
function fuse(): Finding[] {
  const root = process.getuid?.() === 0;
  const helper = fusermount(!root);
  let fd: number;
  try {
    fd = openFuseDevice();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    // fusermount3 opens it as root, before it checks its caller.
    if (code === 'EACCES' && !root) return [ok('fuse-device', '/dev/fuse, through fusermount3'), helper];
    const hint =
      code === 'EACCES' || code === 'EPERM'
        ? `allow it to be opened; ${IN_CONTAINER}`
        : `load the module: modprobe fuse; ${IN_CONTAINER}`;
    return [failed('fuse-device', `/dev/fuse cannot be opened: ${code}`, hint), helper];
  }
  try {
    return [ok('fuse-device', '/dev/fuse'), helper, ...(root ? [trialMount(fd)] : [])];
  } finally {
    closeSync(fd);
  }
}

function fusermount(needed: boolean): Finding {
  const name = 'fusermount3';
  const hint = 'users other than root mount with it: install the package fuse3';
  const program = findProgram('fusermount3');
  if (program === null) return (needed ? failed : limited)(name, 'there is none', hint);
  if ((statSync(program).mode & 0o4000) !== 0) return ok(name, program);
  return (needed ? failed : limited)(name, `${program} is not set-uid root`, `${hint}, or chmod u+s ${program}`);
}

/** What forbids mounting (a missing capability, seccomp, AppArmor) shows only when one mounts. */
function trialMount(fd: number): Finding {
  const name = 'mounting';
  const target = mkdtempSync(join(tmpdir(), 'clip-doctor-'));
  try {
    mountFuse({ fd, target, source: 'clip-doctor' });
    unmount(target, 'lazy');
    return ok(name, 'a FUSE mount was made and taken away');
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    return failed(
      name,
      `mounting FUSE: ${code}`,
      `mount(2) needs CAP_SYS_ADMIN, and AppArmor may forbid it; ${IN_CONTAINER}`,
    );
  } finally {
    rmdirSync(target);
  }
}

/** Which file system `--plane auto` would take, as far as this machine decides it; an image may decide otherwise. */
function plane(cacheDir: string): Finding {
  const name = 'plane';
  if (process.getuid?.() !== 0) return limited(name, 'FUSE', "the kernel's EROFS is mounted by root only");
  // The probe writes into the cache directory, which is not made here.
  const directory = existsSync(cacheDir) ? cacheDir : tmpdir();
  const support = probeKernelPlane(directory);
  return support.supported
    ? ok(name, "--plane auto takes the kernel's EROFS")
    : limited(
        name,
        `--plane auto takes FUSE: ${support.reason}`,
        "FUSE serves every image; the kernel's EROFS is quicker for small reads",
      );
}

function runtime(): Finding {
  const found = ['runc', 'crun'].flatMap((name) => findProgram(name) ?? []);
  return found.length > 0
    ? ok('runtime', found.join(', '))
    : limited(
        'runtime',
        'neither runc nor crun',
        'clipctl run needs one, mounts do not: install the package runc or crun',
      );
}

/** A clipd holds a file for each layer, and 32 connections for each image. */
const FEW_FILES = 4096;

function openFiles(): Finding {
  const [, soft = '0', hard = '0'] =
    /^Max open files\s+(\S+)\s+(\S+)/m.exec(kernelFile('/proc/self/limits') ?? '') ?? [];
  // Node raises its own limit to the hard one.
  const most = hard === 'unlimited' ? Number.POSITIVE_INFINITY : Number(hard);
  const found = `${hard} (soft limit ${soft})`;
  return most >= FEW_FILES
    ? ok('open-files', found)
    : limited(
        'open-files',
        found,
        `many mounts need more than ${FEW_FILES}: ulimit -Hn, or LimitNOFILE= in clipd.service`,
      );
}
