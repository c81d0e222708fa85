import { lookup as resolveName } from 'node:dns';
import { BlockList, isIP, type LookupFunction } from 'node:net';
import { ClipError } from '../bytes/index.js';

/**
 * How far into this machine's own surroundings an address lies. A registry decides where its redirects lead, so a redirect must
 * not reach what only this machine can reach: see {@link mayReach}.
 */
export type Locality = 'public' | 'private' | 'link-local' | 'loopback';

type Network = readonly [address: string, bits: number];

/**
 * IANA's special-purpose address registries (RFC 6890), grouped by how far away the hosts of a network can be. Multicast and
 * reserved addresses count as link-local, so that no redirect reaches them.
 */
const NETWORKS: Readonly<Record<Exclude<Locality, 'public'>, readonly Network[]>> = {
  // The system connects 0.0.0.0 and :: to itself.
  loopback: [
    ['0.0.0.0', 8],
    ['127.0.0.0', 8],
    ['::', 128],
    ['::1', 128],
  ],
  'link-local': [
    ['169.254.0.0', 16],
    // Azure's host, which answers every virtual machine there with its configuration; not in RFC 6890.
    ['168.63.129.16', 32],
    // Where clouds keep a machine's credentials outside of link-local networks: Alibaba's, Oracle's, and by IPv6 Amazon's, Google's,
    // Oracle's and Scaleway's.
    ['100.100.100.200', 32],
    ['192.0.0.192', 32],
    ['fd00:ec2::', 32],
    ['fd20:ce::254', 128],
    ['fd00:c1::a9fe:a9fe', 128],
    ['fd00:42::42', 128],
    ['224.0.0.0', 3],
    ['fe80::', 10],
    ['ff00::', 8],
  ],
  private: [
    ['10.0.0.0', 8],
    ['100.64.0.0', 10],
    ['172.16.0.0', 12],
    ['192.0.0.0', 24],
    ['192.168.0.0', 16],
    ['198.18.0.0', 15],
    // NAT64 of a network's own (RFC 8215).
    ['64:ff9b:1::', 48],
    ['fc00::', 7],
    ['fec0::', 10],
  ],
};

interface LocalityList {
  readonly locality: Locality;
  readonly list: BlockList;
}

/** Made when an address is first checked: a server that has just been started first mounts. */
let lists: readonly LocalityList[] | null = null;

function localityLists(): readonly LocalityList[] {
  lists ??= Object.entries(NETWORKS).map(([locality, networks]) => {
    const list = new BlockList();
    for (const [address, bits] of networks) list.addSubnet(address, bits, address.includes(':') ? 'ipv6' : 'ipv4');
    return { locality: locality as Locality, list };
  });
  return lists;
}

/** The 16 bytes of an IPv6 address that {@link isIP} accepts; a zone is left out. */
function bytesOf(address: string): number[] {
  let text = address.replace(/%.*$/, '');
  const dotted = /(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(text);
  if (dotted !== null) {
    const [a, b, c, d] = dotted.slice(1).map(Number) as [number, number, number, number];
    text = `${text.slice(0, dotted.index)}${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`;
  }
  const [head = '', tail] = text.split('::');
  const words = (part: string): number[] =>
    part === '' ? [] : part.split(':').map((word) => Number.parseInt(word, 16));
  const [first, last] = [words(head), words(tail ?? '')];
  const all =
    tail === undefined ? first : [...first, ...new Array<number>(8 - first.length - last.length).fill(0), ...last];
  return all.flatMap((word) => [word >> 8, word & 0xff]);
}

/** IPv6 addresses that stand for an IPv4 address: mapped and compatible (RFC 4291), NAT64 (RFC 6052), 6to4 (RFC 3056). */
function embeddedIPv4(address: string): string | null {
  const bytes = bytesOf(address);
  const starts = (...prefix: number[]): boolean => prefix.every((byte, i) => bytes[i] === byte);
  const zeros = new Array<number>(8).fill(0);
  if (starts(...zeros, 0, 0, 0xff, 0xff) || starts(...zeros, 0, 0, 0, 0)) return bytes.slice(12).join('.');
  if (starts(0x00, 0x64, 0xff, 0x9b, ...zeros)) return bytes.slice(12).join('.');
  if (starts(0x20, 0x02)) return bytes.slice(2, 6).join('.');
  return null;
}

/** @param address an IPv4 or IPv6 address, without brackets */
export function localityOf(address: string): Locality {
  const family = isIP(address);
  if (family === 6) {
    const embedded = embeddedIPv4(address);
    if (embedded !== null) return localityOf(embedded);
  }
  const bare = address.replace(/%.*$/, '');
  return localityLists().find(({ list }) => list.check(bare, family === 6 ? 'ipv6' : 'ipv4'))?.locality ?? 'public';
}

const ORDER: readonly Locality[] = ['public', 'private', 'link-local', 'loopback'];

/**
 * The rule for redirects (docs/security.md, "Registries"): a response that came from an address of locality `from` may lead to
 * addresses that are as public, or more. Link-local addresses, where clouds keep a machine's credentials, are reached from
 * link-local addresses only.
 */
export function mayReach(from: Locality, to: Locality): boolean {
  if (to === 'link-local') return from === 'link-local';
  return ORDER.indexOf(to) <= ORDER.indexOf(from);
}

/** What a connection may lead to. null: anywhere, for a registry that the user named. */
export type Reach = Locality | null;

const REDIRECT_RULE = 'a registry may not redirect to';

/** A redirect, or a token server, at an address that its registry has no business with. */
class ForbiddenAddress extends ClipError {
  constructor(host: string, address: string, locality: Locality, rule = REDIRECT_RULE) {
    const where = host === address ? host : `${host} (${address})`;
    super('NETWORK', `${rule} ${where}, a ${locality} address`, {
      hint:
        locality === 'private'
          ? 'if its storage is in your own network, add --allow-private-redirects'
          : 'clip follows no redirect there: see docs/security.md, "Registries"',
    });
  }
}

/** @throws ForbiddenAddress when `host` is an address that must not be reached. A name is checked when it is resolved. */
export function checkLiteral(host: string, reach: Reach, rule?: string): void {
  const bare = host.replace(/^\[|\]$/g, '');
  if (reach === null || isIP(bare) === 0) return;
  const locality = localityOf(bare);
  if (!mayReach(reach, locality)) throw new ForbiddenAddress(bare, bare, locality, rule);
}

/**
 * Resolves a name for one connection, and gives only addresses that may be reached. The connection goes to an address that was
 * checked, so a name server cannot give one address to the check and another to the connection.
 */
export function guardedLookup(reach: Locality, rule?: string): LookupFunction {
  return (hostname, options, callback) => {
    resolveName(hostname, { ...options, all: true }, (error, addresses) => {
      if (error !== null) return callback(error, []);
      const allowed = addresses.filter(({ address }) => mayReach(reach, localityOf(address)));
      const first = allowed[0];
      if (first === undefined) {
        const { address } = addresses[0]!;
        return callback(new ForbiddenAddress(hostname, address, localityOf(address), rule), []);
      }
      if (options.all === true) callback(null, allowed);
      else callback(null, first.address, first.family);
    });
  };
}
