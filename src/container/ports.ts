import { createSocket } from 'node:dgram';
import { isIPv4 } from 'node:net';
import { ClipError } from '../bytes/index.js';

/** A port of this machine that leads to one of a container. */
export interface PublishedPort {
  /** "0.0.0.0" is every address of this machine. */
  readonly hostIp: string;
  readonly hostPort: number;
  readonly containerPort: number;
  readonly protocol: 'tcp' | 'udp';
}

/** Each becomes rules of the packet filter, or a socket. */
const MAX_PORTS = 1000;

const FORM = 'as docker: [IP:]HOSTPORT:PORT[/tcp|/udp], "8080:80", "127.0.0.1:5353:53/udp", "8000-8009:8000-8009"';

function usage(text: string, why: string): ClipError {
  return new ClipError('USAGE', `${JSON.stringify(text)} cannot be published: ${why}`, { hint: FORM });
}

/** "80" or "8000-8009": its first and last port. */
function portRange(text: string, whole: string): readonly [first: number, last: number] {
  const match = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(text);
  if (match === null) throw usage(whole, `${JSON.stringify(text)} is no port`);
  const first = Number(match[1]);
  const last = Number(match[2] ?? match[1]);
  if (first < 1 || last > 65_535) throw usage(whole, 'ports are from 1 to 65535');
  if (last < first) throw usage(whole, 'the range ends before it begins');
  return [first, last];
}

/**
 * What docker's `-p` takes, but for ports of the machine that it chooses itself.
 * @throws ClipError USAGE
 */
export function parsePublished(text: string): PublishedPort[] {
  const [rest = '', protocol = 'tcp', ...more] = text.split('/');
  if (more.length > 0 || (protocol !== 'tcp' && protocol !== 'udp')) throw usage(text, 'a protocol is tcp or udp');
  if (rest.includes('[')) throw usage(text, 'an IPv6 address of this machine is not supported');
  const parts = rest.split(':');
  if (parts.length > 3) throw usage(text, 'too many colons');
  const [inside = '', outside, ip = '0.0.0.0'] = parts.reverse();
  if (outside === undefined || outside === '') throw usage(text, 'the port of this machine is missing');
  const hostIp = ip === '' ? '0.0.0.0' : ip;
  if (!isIPv4(hostIp)) throw usage(text, `${JSON.stringify(ip)} is no IPv4 address`);
  const [hostFirst, hostLast] = portRange(outside, text);
  const [first, last] = portRange(inside, text);
  if (hostLast - hostFirst !== last - first) throw usage(text, 'the two ranges differ in length');
  if (last - first >= MAX_PORTS) throw usage(text, `more than ${MAX_PORTS} ports`);
  return Array.from({ length: last - first + 1 }, (_, i) => ({
    hostIp,
    hostPort: hostFirst + i,
    containerPort: first + i,
    protocol,
  }));
}

/** "127.0.0.1:8080/tcp" */
export function describePort({ hostIp, hostPort, protocol }: PublishedPort): string {
  return `${hostIp}:${hostPort}/${protocol}`;
}

function clash(a: PublishedPort, b: PublishedPort): boolean {
  const sameIp = a.hostIp === b.hostIp || a.hostIp === '0.0.0.0' || b.hostIp === '0.0.0.0';
  return sameIp && a.hostPort === b.hostPort && a.protocol === b.protocol;
}

/** @returns the errno's name when it cannot be bound */
async function bindOnce({ hostIp: address, hostPort: port, protocol }: PublishedPort): Promise<string | null> {
  const { createServer } = await import('node:net');
  return await new Promise((resolve) => {
    const refused = (error: NodeJS.ErrnoException): void => resolve(error.code ?? error.message);
    if (protocol === 'udp') {
      const socket = createSocket('udp4');
      socket.once('error', (error) => socket.close(() => refused(error)));
      socket.bind({ address, port, exclusive: true }, () => socket.close(() => resolve(null)));
    } else {
      const server = createServer();
      server.once('error', refused);
      server.listen({ host: address, port, exclusive: true }, () => server.close(() => resolve(null)));
    }
  });
}

/**
 * Says before anything is set up that a port is taken. The packet filter would take it from a program that listens there already.
 * @param others ports of other containers, whose rules no socket shows
 * @throws ClipError BUSY, USAGE or PERMISSION naming the port
 */
export async function requireFree(
  ports: readonly PublishedPort[],
  others: readonly { readonly id: string; readonly ports: readonly PublishedPort[] }[],
): Promise<void> {
  const other = { hint: 'publish another one: -p HOSTPORT:PORT' };
  for (const [i, port] of ports.entries()) {
    const shown = describePort(port);
    if (ports.slice(0, i).some((earlier) => clash(port, earlier))) {
      throw new ClipError('USAGE', `${shown} is published twice`, { hint: 'leave one -p out' });
    }
    const holder = others.find((container) => container.ports.some((taken) => clash(port, taken)));
    if (holder !== undefined) {
      throw new ClipError('BUSY', `${shown} is published by the container ${holder.id}`, {
        hint: `publish another one, or: clipctl umount --force --cid ${holder.id}`,
      });
    }
    const code = await bindOnce(port);
    if (code === null) continue;
    if (code === 'EADDRINUSE') {
      throw new ClipError('BUSY', `${shown} is in use by another program`, {
        hint: `ss -lpn names it; or ${other.hint}`,
      });
    }
    if (code === 'EADDRNOTAVAIL') {
      throw new ClipError('USAGE', `this machine has no address ${port.hostIp}`, { hint: 'ip -br address lists them' });
    }
    if (code === 'EACCES') {
      throw new ClipError('PERMISSION', `this user may not serve ${shown}`, { hint: 'publish a port from 1024 up' });
    }
    throw new ClipError('SYSTEM', `${shown} cannot be bound: ${code}`, other);
  }
}
