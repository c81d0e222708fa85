import { ClipError } from '../bytes/index.js';
import { cgroupsPathOf } from './cgroups.js';
import {
  DEFAULT_CAPABILITIES,
  DEFAULT_MOUNTS,
  DEFAULT_PATH,
  MASKED_PATHS,
  OPEN_FILES,
  READONLY_PATHS,
  type SpecMount,
} from './defaults.js';
import type { RunConfig } from './image-config.js';
import type { Net, NetworkState } from './network.js';
import { type Seccomp, seccompFor } from './seccomp.js';
import { splitTmpfs } from './tmpfs.js';
import type { ContainerUser } from './user.js';

export interface Volume {
  /** An absolute path of the host that exists. */
  readonly source: string;
  /** An absolute path of the container. */
  readonly destination: string;
  readonly readOnly: boolean;
}

/** How to run a container, as far as it differs from what its image says. All fields have a default. */
export interface ProcessOptions {
  /** In place of the image's command. */
  readonly args?: readonly string[];
  /** In place of the image's entrypoint; the image's command then goes, too. "" is no entrypoint. */
  readonly entrypoint?: string;
  /** NAME=value, after the image's. NAME alone is taken out. */
  readonly env?: readonly string[];
  /** Default: the image's. */
  readonly cwd?: string;
  /** USER[:GROUP], names or numbers. Default: the image's. */
  readonly user?: string;
  readonly terminal?: boolean;
  /** Its size at the beginning; later the runtime takes over that of its own. */
  readonly terminalSize?: { readonly rows: number; readonly columns: number };
  readonly hostname?: string;
  readonly volumes?: readonly Volume[];
  /** Paths of the container, each with options after a colon: "/run:size=64m,mode=755". */
  readonly tmpfs?: readonly string[];
  readonly readOnly?: boolean;
  /** Default "host". A path names a network namespace. "bridge" and "private" are networks that `OverlayMounter` or `runContainer` made. */
  readonly net?: Net;
  /** Bytes. */
  readonly memory?: number;
  /** Processors: 0.5 is half of one. */
  readonly cpus?: number;
}

/** What only the machine and the mounted image can tell. */
export interface SpecFacts {
  readonly id: string;
  readonly rootfs: string;
  readonly user: ContainerUser;
  /** Files of the host to bind over the container's /etc: by name. */
  readonly etc: Readonly<Record<'hosts' | 'hostname' | 'resolv.conf', string>>;
  /** null for root; else the ids that the container's root stands for. */
  readonly rootless: { readonly uid: number; readonly gid: number } | null;
  /** Its own network; null: the machine's, or with `net: 'none'` none. */
  readonly network: NetworkState | null;
  /** The most open files that this process may grant. */
  readonly maxOpenFiles: number;
}

/** The kernel takes 64 characters (HOST_NAME_MAX). */
const MAX_HOSTNAME = 63;
/** Length of the scheduler's accounting period, in µs; the default of Docker. */
const CPU_PERIOD = 100_000;

/** For an image that names no command, where a bundle is to be written all the same. */
const FALLBACK = ['/bin/sh'];

/** The command line: entrypoint, then command. @throws ClipError USAGE when there is none, with `needed` */
export function argsOf(image: RunConfig, options: ProcessOptions, needed: boolean): readonly string[] {
  const entrypoint = options.entrypoint === undefined ? image.entrypoint : [options.entrypoint].filter((e) => e !== '');
  const given = options.args !== undefined && options.args.length > 0;
  const command = given ? options.args! : options.entrypoint === undefined ? image.cmd : [];
  const args = [...entrypoint, ...command];
  if (args.length > 0 && args[0] !== '') return args;
  if (!needed) return FALLBACK;
  throw new ClipError('USAGE', 'the image names no command', { hint: 'give one, after the image: … REF COMMAND' });
}

/** The image's environment, what every container has, and what was asked for: later ones win. */
export function environmentOf(
  image: RunConfig,
  options: ProcessOptions,
  facts: { user: ContainerUser; hostname: string },
): string[] {
  const variables = new Map<string, string>([
    ['PATH', DEFAULT_PATH],
    ['HOSTNAME', facts.hostname],
  ]);
  if (options.terminal === true) variables.set('TERM', 'xterm');
  const set = (pair: string): void => {
    const equals = pair.indexOf('=');
    if (equals < 0) variables.delete(pair);
    else variables.set(pair.slice(0, equals), pair.slice(equals + 1));
  };
  for (const pair of image.env) if (pair.indexOf('=') > 0) set(pair);
  for (const pair of options.env ?? []) set(pair);
  if (!variables.get('HOME')) variables.set('HOME', facts.user.home || '/');
  return [...variables].map(([name, value]) => `${name}=${value}`);
}

export function hostnameOf(id: string, options: ProcessOptions): string {
  return options.hostname ?? id.slice(0, MAX_HOSTNAME);
}

function mountsOf(options: ProcessOptions, facts: SpecFacts): SpecMount[] {
  const { rootless } = facts;
  const mounts = DEFAULT_MOUNTS.filter(({ type }) => rootless === null || type !== 'cgroup').map((mount) => {
    // The group of terminals has no id in a namespace of one user.
    if (rootless === null || mount.type !== 'devpts') return mount;
    return { ...mount, options: mount.options.filter((option) => option !== 'gid=5') };
  });
  if (rootless !== null && isHostNet(options, facts)) {
    // sysfs belongs to the network namespace, which is the host's: only a bind mount of it is allowed.
    const at = mounts.findIndex(({ type }) => type === 'sysfs');
    mounts[at] = {
      destination: '/sys',
      type: 'none',
      source: '/sys',
      options: ['rbind', 'nosuid', 'noexec', 'nodev', 'ro'],
    };
  }
  for (const [name, source] of Object.entries(facts.etc)) {
    mounts.push({ destination: `/etc/${name}`, type: 'bind', source, options: ['rbind', 'rprivate'] });
  }
  for (const text of options.tmpfs ?? []) {
    const [destination, extra] = splitTmpfs(text);
    mounts.push({ destination, type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'nodev', 'noexec', ...extra] });
  }
  for (const { source, destination, readOnly } of options.volumes ?? []) {
    const how = ['rbind', 'rprivate', readOnly ? 'ro' : 'rw'];
    mounts.push({ destination, type: 'bind', source, options: how });
  }
  return mounts;
}

function isHostNet(options: ProcessOptions, facts: SpecFacts): boolean {
  return facts.network === null && (options.net ?? 'host') === 'host';
}

function namespacesOf(options: ProcessOptions, facts: SpecFacts): { type: string; path?: string }[] {
  const namespaces: { type: string; path?: string }[] = ['pid', 'ipc', 'uts', 'mount'].map((type) => ({ type }));
  if (facts.rootless === null) namespaces.push({ type: 'cgroup' });
  else namespaces.push({ type: 'user' });
  const path = facts.network?.netns ?? (typeof options.net === 'object' ? options.net.path : null);
  if (path !== null) namespaces.push({ type: 'network', path });
  else if (!isHostNet(options, facts)) namespaces.push({ type: 'network' });
  return namespaces;
}

/** The capabilities of a process: those of another user than root only bound what a set-uid program gets (as in Docker). */
function capabilitiesOf(uid: number): Record<string, readonly string[]> {
  const held = uid === 0 ? DEFAULT_CAPABILITIES : [];
  return { bounding: DEFAULT_CAPABILITIES, effective: held, permitted: held, inheritable: [], ambient: [] };
}

function resourcesOf(options: ProcessOptions, facts: SpecFacts): Record<string, unknown> {
  const { memory, cpus } = options;
  return {
    // The runtime adds the devices that every container may use: null, zero, full, random, urandom, tty, pts.
    ...(facts.rootless === null ? { devices: [{ allow: false, access: 'rwm' }] } : {}),
    ...(memory === undefined ? {} : { memory: { limit: memory } }),
    ...(cpus === undefined ? {} : { cpu: { period: CPU_PERIOD, quota: Math.round(cpus * CPU_PERIOD) } }),
  };
}

/** crun 1.8 knows no other size until the first SIGWINCH. */
function consoleSize({ terminal, terminalSize }: ProcessOptions): Record<string, unknown> {
  if (terminal !== true || terminalSize === undefined) return {};
  return { consoleSize: { height: terminalSize.rows, width: terminalSize.columns } };
}

/** The runtime specification of a container (config.json), complete: any OCI runtime takes it. */
export function buildSpec(image: RunConfig, options: ProcessOptions, facts: SpecFacts): Record<string, unknown> {
  const { user, rootless } = facts;
  const hostname = hostnameOf(facts.id, options);
  const hard = Math.min(OPEN_FILES.hard, facts.maxOpenFiles);
  const seccomp: Seccomp = seccompFor(DEFAULT_CAPABILITIES);
  const privateNet = !isHostNet(options, facts);
  const hook = facts.network?.hook ?? null;
  return {
    ociVersion: '1.0.2',
    process: {
      terminal: options.terminal ?? false,
      ...consoleSize(options),
      user: { uid: user.uid, gid: user.gid, additionalGids: user.additionalGids },
      args: argsOf(image, options, false),
      env: environmentOf(image, options, { user, hostname }),
      cwd: options.cwd ?? (image.workingDir || '/'),
      capabilities: capabilitiesOf(user.uid),
      rlimits: [{ type: 'RLIMIT_NOFILE', soft: Math.min(OPEN_FILES.soft, hard), hard }],
      noNewPrivileges: false,
    },
    root: { path: facts.rootfs, readonly: options.readOnly ?? false },
    hostname,
    mounts: mountsOf(options, facts),
    ...(hook === null ? {} : { hooks: { createRuntime: [{ path: hook[0], args: hook }] } }),
    linux: {
      namespaces: namespacesOf(options, facts),
      ...(rootless === null
        ? { cgroupsPath: cgroupsPathOf(facts.id) }
        : {
            uidMappings: [{ containerID: 0, hostID: rootless.uid, size: 1 }],
            gidMappings: [{ containerID: 0, hostID: rootless.gid, size: 1 }],
          }),
      resources: resourcesOf(options, facts),
      // As Docker: any program may serve ports below 1024 in a network of its own.
      ...(privateNet && rootless === null ? { sysctl: { 'net.ipv4.ip_unprivileged_port_start': '0' } } : {}),
      maskedPaths: MASKED_PATHS,
      readonlyPaths: READONLY_PATHS,
      seccomp,
    },
  };
}
