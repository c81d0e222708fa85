import { spawn } from 'node:child_process';
import { accessSync, constants, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ClipError } from '../bytes/index.js';
import type { PublishedPort } from './ports.js';

/*
 * Networks by plugins of the Container Network Interface (CNI 1.0, SPEC.md): programs that get JSON on standard input and what to do in
 * the environment. A network is a list of plugins; each one gets what the one before it returned.
 */

/** The name of the network that `--net bridge` joins. */
const NETWORK = 'clip';
const VERSION = '1.0.0';
const CONFIG_DIRECTORY = '/etc/cni/net.d';
/** Where distributions put the plugins: upstream, Debian, Fedora. */
const PLUGIN_DIRECTORIES = ['/opt/cni/bin', '/usr/lib/cni', '/usr/libexec/cni'];
/** In a container. */
const INTERFACE = 'eth0';
/** A plugin's answer, or a configuration, has a few kilobytes. */
const MAX_JSON = 1024 * 1024;
/** The longest that a plugin may take. They wait for each other's locks. */
const PLUGIN_MS = 60_000;

/** A plugin's own configuration; what every plugin has in common is typed. */
export interface CniPlugin {
  readonly type: string;
  readonly capabilities?: Readonly<Record<string, boolean>>;
  readonly [key: string]: unknown;
}

export interface CniNetwork {
  readonly name: string;
  readonly version: string;
  readonly plugins: readonly CniPlugin[];
}

/** No other program's: docker has 172.17, podman 10.88, CRI-O 10.85, nerdctl 10.4. */
const SUBNET = '10.86.0.0/16';

/** As `podman network create` writes it. Leases are forgotten at a reboot, as the bridge is. */
const BUILT_IN: CniNetwork = {
  name: NETWORK,
  version: VERSION,
  plugins: [
    {
      type: 'bridge',
      bridge: 'clip0',
      isGateway: true,
      ipMasq: true,
      hairpinMode: true,
      ipam: {
        type: 'host-local',
        dataDir: '/run/clip-networks',
        ranges: [[{ subnet: SUBNET }]],
        routes: [{ dst: '0.0.0.0/0' }],
      },
    },
    { type: 'portmap', capabilities: { portMappings: true } },
    { type: 'firewall' },
  ],
};

function pluginDirectories(): string[] {
  const named = (process.env.CNI_PATH ?? '').split(':').filter((path) => path.startsWith('/'));
  return [...named, ...PLUGIN_DIRECTORIES];
}

function findPlugin(type: string): string | null {
  if (!/^[A-Za-z0-9_.-]+$/.test(type)) return null;
  for (const directory of pluginDirectories()) {
    try {
      accessSync(join(directory, type), constants.X_OK);
      return join(directory, type);
    } catch {
      // the next directory
    }
  }
  return null;
}

/** An administrator's network of our name. */
function configured(): CniNetwork | null {
  let names: string[];
  try {
    names = readdirSync(CONFIG_DIRECTORY).filter((name) => name.endsWith('.conflist'));
  } catch {
    return null; // no such directory
  }
  for (const name of names.sort()) {
    const path = join(CONFIG_DIRECTORY, name);
    try {
      const list = JSON.parse(readFileSync(path, 'utf8')) as {
        name?: string;
        cniVersion?: string;
        plugins?: CniPlugin[];
      };
      if (list.name !== NETWORK) continue;
      if (Array.isArray(list.plugins) && list.plugins.every(({ type }) => typeof type === 'string')) {
        return { name: NETWORK, version: list.cniVersion ?? VERSION, plugins: list.plugins };
      }
    } catch {
      continue; // another program's, which is not ours to judge
    }
    throw new ClipError('BAD_FORMAT', `${path}: the network ${NETWORK} has no list of plugins`, {
      hint: 'see cni.dev, "Network configuration format"; or remove the file',
    });
  }
  return null;
}

/**
 * The network of `--net bridge`: the one of the name "clip" in /etc/cni/net.d, else one of our own.
 * @returns null when its plugins are not installed
 */
export function bridgeNetwork(ports: readonly PublishedPort[]): CniNetwork | null {
  const own = configured();
  const network = own ?? BUILT_IN;
  const plugins = network.plugins.filter(({ type }) => {
    if (own !== null) return true;
    // Rules for ports only where there are some, and the firewall's where there is one: without it, hosts that forward nothing stay so.
    return type === 'portmap' ? ports.length > 0 : type !== 'firewall' || findPlugin(type) !== null;
  });
  return plugins.every(({ type }) => findPlugin(type) !== null) ? { ...network, plugins } : null;
}

export interface CniAttachment {
  readonly id: string;
  readonly netns: string;
  readonly network: CniNetwork;
  readonly ports: readonly PublishedPort[];
}

interface CniResult {
  readonly ips?: readonly { readonly address?: string }[];
}

async function runPlugin(
  command: 'ADD' | 'DEL',
  attachment: CniAttachment,
  plugin: CniPlugin,
  previous: unknown,
): Promise<CniResult | null> {
  const { id, netns, network, ports } = attachment;
  const program = findPlugin(plugin.type);
  if (program === null) {
    throw new ClipError('UNSUPPORTED', `the CNI plugin ${plugin.type} is not installed`, {
      hint: `install the package containernetworking-plugins (looked in ${pluginDirectories().join(', ')})`,
    });
  }
  const portMappings = ports.map(({ hostIp, hostPort, containerPort, protocol }) => ({
    hostPort,
    containerPort,
    protocol,
    // The plugin takes an address that is given for one alone.
    ...(hostIp === '0.0.0.0' ? {} : { hostIP: hostIp }),
  }));
  const config = {
    ...plugin,
    cniVersion: network.version,
    name: network.name,
    ...(plugin.capabilities?.portMappings === true ? { runtimeConfig: { portMappings } } : {}),
    ...(previous === null ? {} : { prevResult: previous }),
  };
  const environment = {
    // iptables is in /usr/sbin.
    PATH: `${process.env.PATH ?? ''}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin`,
    CNI_COMMAND: command,
    CNI_CONTAINERID: id,
    CNI_NETNS: netns,
    CNI_IFNAME: INTERFACE,
    CNI_PATH: pluginDirectories().join(':'),
  };
  const { code, stdout, stderr } = await runWithInput(program, environment, JSON.stringify(config));
  if (code === 0) return command === 'DEL' || stdout.trim() === '' ? null : (JSON.parse(stdout) as CniResult);
  throw new ClipError(
    'SYSTEM',
    `the CNI plugin ${program} failed: ${saidBy(stdout) ?? (stderr.trim() || `exit ${code}`)}`,
    {
      hint: 'it needs root and, for ports, iptables; --net host does without it',
    },
  );
}

/** A plugin's error is JSON on standard output (SPEC.md, "Error"). */
function saidBy(stdout: string): string | null {
  try {
    const { msg, details } = JSON.parse(stdout) as { msg?: string; details?: string };
    return msg === undefined ? null : [msg, details].filter(Boolean).join(': ').replaceAll('\n', '; ');
  } catch {
    return null;
  }
}

function runWithInput(
  program: string,
  env: Record<string, string>,
  input: string,
): Promise<{ code: number | string; stdout: string; stderr: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, [], {
      env,
      stdio: ['pipe', 'pipe', 'pipe'],
      timeout: PLUGIN_MS,
      killSignal: 'SIGKILL',
    });
    const out = { stdout: '', stderr: '' };
    for (const name of ['stdout', 'stderr'] as const) {
      child[name].setEncoding('utf8').on('data', (text: string) => {
        if (out[name].length < MAX_JSON) out[name] += text;
      });
    }
    child.once('error', (cause) =>
      reject(new ClipError('SYSTEM', `cannot run the CNI plugin ${program}: ${cause.message}`, { cause })),
    );
    child.once('close', (code, signal) => resolve({ code: code ?? signal ?? '?', ...out }));
    child.stdin.on('error', () => {}); // it ended without reading: its exit code says more
    child.stdin.end(input);
  });
}

/** Connects a network namespace. @returns the container's address, without its prefix length; null when the plugins give none */
export async function attach(attachment: CniAttachment): Promise<string | null> {
  let result: CniResult | null = null;
  for (const plugin of attachment.network.plugins) {
    result = (await runPlugin('ADD', attachment, plugin, result)) ?? result;
  }
  return result?.ips?.[0]?.address?.split('/')[0] ?? null;
}

/** Disconnects it. Works on what was connected in part, and twice (SPEC.md, "DEL"). */
export async function detach(attachment: CniAttachment): Promise<void> {
  let failed: unknown = null;
  for (const plugin of [...attachment.network.plugins].reverse()) {
    // One that fails must not keep the others' rules and addresses.
    await runPlugin('DEL', attachment, plugin, null).catch((error: unknown) => {
      failed ??= error;
    });
  }
  if (failed !== null) throw failed;
}
