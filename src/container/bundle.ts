import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ImageMeta } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import { checkProcessOptions, checkVolume } from './check-options.js';
import { networkOf } from './container-state.js';
import { type RunConfig, runConfigOf } from './image-config.js';
import { InRoot } from './in-root.js';
import type { NetworkState } from './network.js';
import { checkProgram, isCovered } from './program.js';
import { argsOf, buildSpec, environmentOf, hostnameOf, type ProcessOptions } from './spec.js';
import { splitTmpfs } from './tmpfs.js';
import { type ContainerUser, resolveUser } from './user.js';

/** A passwd or group file has a line for each user; the largest of real systems have some 100,000. */
const MAX_USER_FILE = 16 * 1024 * 1024;

const ETC_FILES = ['hosts', 'hostname', 'resolv.conf'] as const;

export interface BundleOptions extends ProcessOptions {
  /** Where config.json goes: an existing directory. */
  readonly bundle: string;
  /** Default: the bundle's directory name. */
  readonly id?: string;
  /** The root file system, writable: mount points that the image lacks are made in it. */
  readonly rootfs: string;
  readonly image: Pick<ImageMeta, 'config' | 'reference'>;
  /** Look whether the program can be run. Default false: the runtime finds out. */
  readonly check?: boolean;
}

/**
 * Writes an OCI bundle for a mounted image: config.json, and the files of /etc that a container gets. `runc run --bundle DIR ID`
 * then runs it as Docker would run the image.
 * @throws ClipError naming the user, the working directory or the volume that is missing; with `check`, StartError
 */
export function createBundle(options: BundleOptions): void {
  const { bundle, rootfs, image } = options;
  const network = networkOf(bundle);
  if (network === null && (options.net === 'bridge' || options.net === 'private')) {
    throw new ClipError('USAGE', `the network ${options.net} was not made with the container`, {
      hint: 'give `net` to OverlayMounter, too: it makes the network',
    });
  }
  const id = options.id ?? bundle.slice(bundle.lastIndexOf('/') + 1);
  const config = runConfigOf(image.config, image.reference);
  checkProcessOptions(options);
  const rootless = process.getuid!() === 0 ? null : { uid: process.getuid!(), gid: process.getgid!() };
  const root = new InRoot(rootfs);
  try {
    for (const volume of options.volumes ?? []) checkVolume(volume, root);
    const user = rootless === null ? userOf(root, options.user ?? config.user) : rootlessUser(root, options, config);
    const covered = [
      ...(options.volumes ?? []).map(({ destination }) => destination),
      ...(options.tmpfs ?? []).map((text) => splitTmpfs(text)[0]),
    ];
    const cwd = workingDirectory(root, config, options, covered);
    // As Docker: a volume that the image does not hold as a directory is made.
    for (const path of config.volumes)
      if (!isCovered(path, covered) && root.stat(path) === null) root.makeDirectory(path);
    const hostname = hostnameOf(id, options);
    if (options.check === true) {
      const env = environmentOf(config, options, { user, hostname });
      checkProgram(root, {
        name: argsOf(config, options, true)[0]!,
        cwd,
        env,
        user,
        covered: ['/proc', '/dev', '/sys', ...covered],
      });
    }
    const etc = writeEtcFiles(bundle, hostname, network ?? (options.net === 'none' ? 'none' : 'host'));
    const spec = buildSpec(
      config,
      { ...options, cwd },
      {
        id,
        rootfs,
        user,
        etc,
        rootless,
        network,
        maxOpenFiles: hardOpenFiles(),
      },
    );
    writeFileSync(join(bundle, 'config.json'), `${JSON.stringify(spec)}\n`, { mode: 0o600 });
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ENOSPC') throw cause;
    throw new ClipError('SYSTEM', `no space left for the container (${rootfs} or ${bundle})`, {
      cause,
      hint: 'free some, or give the writable layer more: --tmpfs-upper SIZE, --upper DIR',
    });
  } finally {
    root.close();
  }
}

/** Without root, a container's user namespace has one id: its root, which is this user. */
function rootlessUser(root: InRoot, options: BundleOptions, config: RunConfig): ContainerUser {
  const wanted = options.user ?? config.user;
  const user = userOf(root, wanted);
  if (user.uid === 0 && user.gid === 0) return { ...user, additionalGids: [] };
  throw new ClipError(
    'UNSUPPORTED',
    `the user ${JSON.stringify(wanted)} does not exist in a container of a user other than root`,
    {
      hint: "run it as the container's root, which is you: --user 0:0",
    },
  );
}

function userOf(root: InRoot, wanted: string): ContainerUser {
  const text = (path: string): string => {
    const bytes = root.read(path, MAX_USER_FILE);
    if (bytes !== null && bytes.length === MAX_USER_FILE) {
      throw new ClipError('LIMIT', `the image's ${path} is larger than ${MAX_USER_FILE} bytes`, {
        hint: 'give the user as a number: --user UID:GID',
      });
    }
    return bytes?.toString('utf8') ?? '';
  };
  // Numbers for both need no look into the image.
  if (/^\d+:\d+$/.test(wanted)) return resolveUser(wanted, '', '');
  return resolveUser(wanted, text('/etc/passwd'), text('/etc/group'));
}

/** The image's own working directory is made where it is missing, as Docker does; one that was asked for has to be there. */
function workingDirectory(
  root: InRoot,
  config: RunConfig,
  options: ProcessOptions,
  covered: readonly string[],
): string {
  const cwd = options.cwd ?? (config.workingDir || '/');
  if (!cwd.startsWith('/')) {
    throw new ClipError('USAGE', `the working directory ${JSON.stringify(cwd)} is not an absolute path`, {
      hint: 'give one that begins with /: --workdir /DIR',
    });
  }
  if (isCovered(cwd, covered)) return cwd;
  const stat = root.stat(cwd);
  if (stat?.isDirectory()) return cwd;
  if (stat === null && options.cwd === undefined) {
    root.makeDirectory(cwd);
    return cwd;
  }
  throw new ClipError(
    'NOT_FOUND',
    `the working directory ${cwd} is ${stat === null ? 'not in the image' : 'no directory'}`,
    {
      hint: 'give another: --workdir /DIR, or mount one there: --volume SRC:DST',
    },
  );
}

/** Files of the bundle that are bound over the image's: the machine's name service, and the container's own name. */
function writeEtcFiles(
  bundle: string,
  hostname: string,
  network: NetworkState | 'host' | 'none',
): Record<(typeof ETC_FILES)[number], string> {
  const path = (name: string): string => join(bundle, name);
  const write = (name: string, text: string): void => writeFileSync(path(name), text, { mode: 0o644 });
  const copy = (name: string): string => {
    try {
      return readFileSync(`/etc/${name}`, 'utf8');
    } catch {
      return ''; // a machine without one
    }
  };
  write('hostname', `${hostname}\n`);
  const address = typeof network === 'object' ? network.address : null;
  const own =
    address === null ? `127.0.0.1\tlocalhost ${hostname}\n` : `127.0.0.1\tlocalhost\n${address}\t${hostname}\n`;
  write('hosts', network === 'host' ? copy('hosts') : `${own}::1\tlocalhost\n`);
  write('resolv.conf', typeof network === 'object' ? reachableNameServers(copy('resolv.conf')) : copy('resolv.conf'));
  return Object.fromEntries(ETC_FILES.map((name) => [name, path(name)])) as Record<(typeof ETC_FILES)[number], string>;
}

/** Where systemd-resolved lists the servers that it asks, beside the file that names itself at a loopback address. */
const RESOLVED = '/run/systemd/resolve/resolv.conf';

/** A resolv.conf for another network: a name server on the machine's loopback does not answer there. */
function reachableNameServers(text: string): string {
  const isLocal = (line: string): boolean => /^\s*nameserver\s+(127\.|::1)/.test(line);
  const lines = text.split('\n');
  if (!lines.some(isLocal)) return text;
  try {
    return readFileSync(RESOLVED, 'utf8');
  } catch {
    return lines.filter((line) => !isLocal(line)).join('\n');
  }
}

function hardOpenFiles(): number {
  const line = /^Max open files\s+\S+\s+(\S+)/m.exec(readFileSync('/proc/self/limits', 'latin1'));
  return line === null || line[1] === 'unlimited' ? Number.MAX_SAFE_INTEGER : Number(line[1]);
}

/** Mount points that every container needs, made ahead of a root file system that is about to become read-only. */
export function makeMountPoints(rootfs: string): void {
  const root = new InRoot(rootfs);
  try {
    for (const path of ['/proc', '/dev', '/sys']) root.makeDirectory(path);
    for (const name of ETC_FILES) root.makeFile(`/etc/${name}`);
  } finally {
    root.close();
  }
}
