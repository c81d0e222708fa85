import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { ClipError } from '../bytes/index.js';
import type { PublishedPort } from './ports.js';
import { findProgram } from './programs.js';

/*
 * A network of a container's own without root's help: pasta (of passt) takes the container's packets from a tap device and makes
 * connections of its own of them.
 */

/** @throws ClipError UNSUPPORTED */
export function requirePasta(): string {
  const program = findProgram('pasta');
  if (program !== null) return program;
  throw new ClipError('UNSUPPORTED', 'this machine has no pasta, which makes private networks', {
    hint: 'install the package passt; or, as root, the package containernetworking-plugins for --net bridge',
  });
}

function forwards(ports: readonly PublishedPort[], protocol: PublishedPort['protocol']): string[] {
  const own = ports.filter((port) => port.protocol === protocol);
  const flag = protocol === 'tcp' ? '-t' : '-u';
  if (own.length === 0) return [flag, 'none'];
  return own.flatMap(({ hostIp, hostPort, containerPort }) => [
    flag,
    `${hostIp === '0.0.0.0' ? '' : `${hostIp}/`}${hostPort}:${containerPort}`,
  ]);
}

/** Its command line, but for the namespace. It returns when the network is there, and leaves a process that serves it. */
export function pastaCommand(program: string, pidFile: string, ports: readonly PublishedPort[]): string[] {
  return [
    program,
    '--quiet',
    '--config-net',
    // By default the gateway's address leads to the machine's own loopback, and so to services that trust it.
    '--no-map-gw',
    ...forwards(ports, 'tcp'),
    ...forwards(ports, 'udp'),
    // Nor are the machine's ports the container's.
    ...['-T', 'none', '-U', 'none'],
    ...['-P', pidFile],
  ];
}

/** Connects a network namespace, as root. */
export function startPasta(command: readonly string[], netns: string): void {
  const [program, ...args] = command;
  // As "nobody", which it would become, it may not enter the namespace.
  const all = ['--runas', '0', ...args, '--netns-only', '--netns', netns];
  const ran = spawnSync(program!, all, { stdio: ['ignore', 'ignore', 'pipe'], encoding: 'utf8' });
  if (ran.status === 0) return;
  throw new ClipError(
    'SYSTEM',
    `pasta cannot make the network: ${pastaSaid(ran.stderr ?? '') || `exit ${ran.status}`}`,
    {
      hint: 'is there a route to the network, and a free port? --net host does without it',
    },
  );
}

/** Without what it says of a machine that has no syslog, and of its user. */
function pastaSaid(text: string): string {
  return text
    .split('\n')
    .filter((line) => line !== '' && !/to syslog$|^Don't run as root/.test(line))
    .join('; ');
}

/** Ends the process that serves a network, if it runs. */
export function stopPasta(pidFile: string): void {
  let pid: number;
  try {
    pid = Number(readFileSync(pidFile, 'latin1'));
    // The number may be another process's by now.
    if (!readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0').includes(pidFile)) return;
    process.kill(pid, 'SIGTERM');
  } catch {
    // it has ended, or never began
  }
}
