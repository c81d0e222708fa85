import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { type MountInfo, mountNamespace, parseMountInfo } from '../linux/index.js';
import { foreignParts, isWithin } from '../wire/index.js';

/** A process that keeps a mount busy. */
export interface Holder {
  readonly pid: number;
  readonly command: string;
  /** How: "cwd", "root", "exe", "open file", "mapped file", "mount namespace", "mounted below". */
  readonly how: string;
}

/** At most this many holders are named; a host may have tens of thousands of processes. */
const MAX_HOLDERS = 20;

const IN_NAMESPACE = 'mount namespace';

function tryRead<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined; // the process has ended, or belongs to another user
  }
}

function howHeld(pid: string, path: string, device: string, ownNamespace: string): string | undefined {
  const base = `/proc/${pid}`;
  for (const link of ['cwd', 'root', 'exe']) {
    const target = tryRead(() => readlinkSync(`${base}/${link}`));
    if (target !== undefined && isWithin(target, path)) return link;
  }
  for (const fd of tryRead(() => readdirSync(`${base}/fd`)) ?? []) {
    const target = tryRead(() => readlinkSync(`${base}/fd/${fd}`));
    if (target !== undefined && isWithin(target, path)) return 'open file';
  }
  const maps = tryRead(() => readFileSync(`${base}/maps`, 'utf8'));
  if (maps?.includes(` ${path}/`)) return 'mapped file';
  // A copy of the mount in another namespace (a container's) does not make ours busy by itself, but its users keep
  // the connection: they see the image for as long as they live.
  if (tryRead(() => readlinkSync(`${base}/ns/mnt`)) !== ownNamespace) {
    const copies = parseMountInfo(tryRead(() => readFileSync(`${base}/mountinfo`, 'latin1')) ?? '');
    if (copies.some((entry: MountInfo) => entry.device === device)) return IN_NAMESPACE;
  }
  return undefined;
}

/** The processes that keep the mount at a place busy. Reads links in /proc only, and never asks the mount, which may hang. */
export function findHolders(name: string, entries: readonly MountInfo[]): Holder[] {
  const holders: Holder[] = [];
  const there = foreignParts(name);
  const path = there?.path ?? name;
  const device = there !== null ? '' : (entries.findLast((entry) => entry.mountPoint === path)?.device ?? '');
  for (const entry of there === null ? entries : []) {
    if (entry.mountPoint !== path && isWithin(entry.mountPoint, path)) {
      holders.push({ pid: 0, command: entry.mountPoint, how: 'mounted below' });
    }
  }
  const ownNamespace = mountNamespace();
  for (const pid of readdirSync('/proc')) {
    if (!/^[0-9]+$/.test(pid)) continue;
    if (there !== null && tryRead(() => readlinkSync(`/proc/${pid}/ns/mnt`)) !== there.namespace) continue;
    const how = howHeld(pid, path, device, ownNamespace);
    if (how === undefined) continue;
    const command = tryRead(() => readFileSync(`/proc/${pid}/comm`, 'utf8').trim()) ?? '?';
    holders.push({ pid: Number(pid), command, how });
  }
  // Copies in other namespaces mostly follow ours (propagation): they explain a busy mount only if nothing else does.
  const direct = holders.filter((holder) => holder.how !== IN_NAMESPACE);
  return (direct.length > 0 ? direct : holders).slice(0, MAX_HOLDERS);
}

/** "bash (pid 12, cwd), /mnt/a/proc (mounted below)". */
export function describeHolders(holders: readonly Holder[]): string {
  if (holders.length === 0) return 'a process that this user may not see';
  return holders
    .map((h) => (h.pid === 0 ? `${h.command} (${h.how})` : `${h.command} (pid ${h.pid}, ${h.how})`))
    .join(', ');
}
