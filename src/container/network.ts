import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ClipError } from '../bytes/index.js';
import { makeNetworkNamespace, readMountInfo, SystemCallError, unmount } from '../linux/index.js';
import { mountAt } from '../wire/index.js';
import { attach, bridgeNetwork, type CniNetwork, detach } from './cni.js';
import { pastaCommand, requirePasta, startPasta, stopPasta } from './pasta.js';
import { type PublishedPort, parsePublished, requireFree } from './ports.js';

/** "host": the machine's. "none": loopback only. "bridge": by CNI plugins, as root. "private": by pasta, also without root.
 * `path`: a network namespace that exists. */
export type Net = 'host' | 'none' | 'bridge' | 'private' | { readonly path: string };

export interface NetworkOptions {
  /** Default: "host"; with ports "bridge" if this user and machine can, else "private". */
  readonly net?: Net;
  /** Ports of this machine that lead to the container's, as docker's `-p` takes them: "8080:80", "127.0.0.1:5353:53/udp". */
  readonly publish?: readonly string[];
}

/** A container's own network, as its state keeps it: what is needed to take it down. */
export interface NetworkState {
  readonly kind: 'bridge' | 'private';
  readonly ports: readonly PublishedPort[];
  /** A file that the namespace is mounted on; null: the runtime makes the namespace, and `hook` connects it. */
  readonly netns: string | null;
  readonly cni: CniNetwork | null;
  /** The container's address, where it is known before it runs. */
  readonly address: string | null;
  /** A command line for the runtime, with the container's state on standard input. */
  readonly hook: readonly string[] | null;
}

const isMounted = (path: string): boolean => mountAt(readMountInfo(), path) !== undefined;

const isRoot = (): boolean => process.getuid?.() === 0;

const NO_PLUGINS = 'this machine has no CNI plugins (bridge, host-local, portmap)';

/** @returns null: there is nothing to make. @throws ClipError USAGE or UNSUPPORTED: what was asked for cannot be, whatever the container */
export function chooseNetwork({ net, publish: published = [] }: NetworkOptions): NetworkState | null {
  const publish = published.flatMap(parsePublished);
  if (net === 'host' || net === 'none' || typeof net === 'object' || (net === undefined && publish.length === 0)) {
    if (publish.length === 0) return null;
    const [name, why] =
      net === 'none'
        ? [net, 'a container without a network has no ports']
        : [typeof net === 'object' ? net.path : net, 'the ports are those of that network'];
    throw new ClipError('USAGE', `-p and --net ${name} exclude each other: ${why}`, {
      hint: "leave one of them out: -p alone gives a network of the container's own",
    });
  }
  const state = { ports: publish, netns: null, cni: null, address: null, hook: null };
  if (net === 'private') {
    requirePasta();
    return { ...state, kind: 'private' };
  }
  const cni = isRoot() ? bridgeNetwork(publish) : null;
  if (cni !== null) return { ...state, kind: 'bridge', cni };
  if (net === 'bridge') {
    throw new ClipError('UNSUPPORTED', isRoot() ? NO_PLUGINS : 'a bridge needs root', {
      hint: isRoot()
        ? 'install the package containernetworking-plugins, or: --net private'
        : '--net private needs none',
    });
  }
  try {
    requirePasta();
  } catch {
    const have = isRoot() ? 'neither CNI plugins nor pasta' : 'no pasta';
    throw new ClipError('UNSUPPORTED', `-p needs a network of the container's own, and this machine has ${have}`, {
      hint: `install the package ${isRoot() ? 'containernetworking-plugins or passt' : 'passt'}; with --net host its ports are the machine's`,
    });
  }
  return { ...state, kind: 'private' };
}

const pidFileOf = (bundle: string): string => join(bundle, 'pasta.pid');

/** What `connect` will have made: kept before it begins, so that a crash leaves nothing that is not known. */
export function planNetwork(chosen: NetworkState, bundle: string): NetworkState {
  if (isRoot()) return { ...chosen, netns: join(bundle, 'netns') };
  const command = pastaCommand(requirePasta(), pidFileOf(bundle), chosen.ports);
  const quoted = command.map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(' ');
  // The runtime gives the container's state, of one line or of several, and what the hook prints is its error.
  const script = `pid=$(tr -d '\\n' | sed 's/.*"pid"[ :]*\\([0-9]*\\).*/\\1/') && exec ${quoted} "$pid"`;
  return { ...chosen, hook: ['/bin/sh', '-c', script] };
}

/**
 * Makes a container's network.
 * @param others of other containers, whose ports are taken
 * @throws ClipError naming the port that is in use, or the plugin that failed
 */
export async function connect(
  id: string,
  bundle: string,
  planned: NetworkState,
  others: readonly { readonly id: string; readonly ports: readonly PublishedPort[] }[],
): Promise<NetworkState> {
  const { netns, cni, ports } = planned;
  await requireFree(ports, others);
  if (netns === null) return planned;
  writeFileSync(netns, '', { mode: 0o600 });
  try {
    makeNetworkNamespace(netns);
  } catch (cause) {
    if (!(cause instanceof SystemCallError)) throw cause;
    throw new ClipError('PERMISSION', `cannot make a network namespace: ${cause.code}`, {
      cause,
      hint: 'it needs CAP_SYS_ADMIN; --net host does without it',
    });
  }
  if (cni !== null) return { ...planned, address: await attach({ id, netns, network: cni, ports }) };
  startPasta(pastaCommand(requirePasta(), pidFileOf(bundle), ports), netns);
  return planned;
}

/** Takes a container's network down, whole or half-made. */
export async function disconnect(id: string, bundle: string, { netns, cni, ports }: NetworkState): Promise<void> {
  stopPasta(pidFileOf(bundle));
  if (netns === null) return;
  try {
    // Without the namespace the plugins still know the rules and addresses that they gave (SPEC.md, "DEL").
    if (cni !== null) await detach({ id, netns: isMounted(netns) ? netns : '', network: cni, ports });
  } finally {
    if (isMounted(netns)) unmount(netns, 'lazy');
    rmSync(netns, { force: true });
  }
}
