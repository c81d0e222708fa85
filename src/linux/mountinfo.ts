import { readFileSync, readlinkSync } from 'node:fs';

/** A line of /proc/PID/mountinfo (proc(5)). */
export interface MountInfo {
  id: number;
  parent: number;
  /** "major:minor" of st_dev. */
  device: string;
  /** Path inside the file system that is the mount's root; not "/" for a bind mount of a part. */
  root: string;
  mountPoint: string;
  options: string[];
  type: string;
  source: string;
  /** Of the file system, which all its mounts share: "user_id=0" of a FUSE connection says who mounted it. */
  superOptions: string[];
}

const decodeField = (field: string): string =>
  field.includes('\\')
    ? Buffer.from(
        field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8))),
        'latin1',
      ).toString('utf8')
    : Buffer.from(field, 'latin1').toString('utf8');

export function parseMountInfo(text: string): MountInfo[] {
  const mounts: MountInfo[] = [];
  for (const line of text.split('\n')) {
    if (line === '') continue;
    const [before, after] = line.split(' - ');
    const head = before!.split(' ');
    const tail = (after ?? '').split(' ');
    mounts.push({
      id: Number(head[0]),
      parent: Number(head[1]),
      device: head[2]!,
      root: decodeField(head[3]!),
      mountPoint: decodeField(head[4]!),
      options: head[5]!.split(','),
      type: tail[0] ?? '',
      source: decodeField(tail[1] ?? ''),
      superOptions: (tail[2] ?? '').split(','),
    });
  }
  return mounts;
}

/** The mounts that this process (or another) sees, in order: of several at one place the last one is on top. */
export function readMountInfo(pid: number | 'self' = 'self'): MountInfo[] {
  return parseMountInfo(readFileSync(`/proc/${pid}/mountinfo`, 'latin1'));
}

/** The id, as in mountinfo, of the mount that an open file or directory (O_PATH, too) lies on. */
export function mountIdOf(fd: number): number {
  const text = readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1');
  return Number(/^mnt_id:\s*(\d+)$/m.exec(text)?.[1] ?? Number.NaN);
}

/** Identifies a process's mount namespace: "mnt:[4026531841]". */
export function mountNamespace(pid: number | 'self' = 'self'): string {
  return readlinkSync(`/proc/${pid}/ns/mnt`);
}
