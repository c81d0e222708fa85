import { execFileSync, spawn } from 'node:child_process';
import {
  appendFileSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statfsSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { getXattr, listXattr, mountFileSystem, readMountInfo, sys, unmount } from '../../src/linux/index.js';
import { compareTrees, snapshotTree } from '../support/compare.js';
import { FusePlane } from '../support/fuse-plane.js';
import { withKernelMount } from '../support/planes.js';
import { block, char, dir, fifo, file, gnuSparse, hardLink, symlink, tar, whiteout } from '../support/tar.js';

/** Real mounts, the kernel's own EROFS as the oracle. */
const root = process.getuid?.() === 0;

let plane: FusePlane | null = null;
afterEach(async () => {
  expect(plane?.faults ?? []).toEqual([]);
  await plane?.close();
  plane = null;
});

function pattern(length: number, seed: number): Buffer {
  const out = Buffer.alloc(length);
  for (let i = 0, x = seed; i < length; i++) {
    x = (Math.imul(x, 1103515245) + 12345) >>> 0;
    out[i] = x >>> 16;
  }
  return out;
}

/** user::rwx, user:1000:r-x, group::r-x, mask::rwx, other::--- */
const ACL = Buffer.from(
  '02000000' + '01000700ffffffff' + '02000500e8030000' + '04000500ffffffff' + '10000700ffffffff' + '20000000ffffffff',
  'hex',
);

const richLayers = [
  tar(
    dir('etc'),
    file('etc/passwd', 'root:x:0:0\n'),
    hardLink('etc/passwd-', 'etc/passwd'),
    file('big', pattern(3_000_001, 7)),
    file('setuid', 'x', { mode: 0o6755, uid: 1234, gid: 70_000 }),
    dir('tmp', { mode: 0o1777 }),
    file('old', '', { mtime: '-1.5' }),
    file('nanoseconds', '', { mtime: '1700000000.123456789' }),
    file(Buffer.from([0x66, 0xff, 0xfe, 0x6f]), 'not UTF-8'),
    file('n'.repeat(255), 'long name'),
    char('null', 1, 3),
    block('disk', 259, 300),
    fifo('fifo'),
    symlink('link', 'etc/passwd'),
    symlink('long-link', `/${'a/'.repeat(2000)}`),
    file('xattrs', '', {
      xattrs: {
        'user.comment': 'text',
        'user.empty': '',
        'trusted.t': 'secret',
        'security.capability': Buffer.from('0100000200200000000000000000000000000000', 'hex'),
      },
    }),
    file('removed', 'gone'),
    gnuSparse('sparse', 10_000_000, [
      [4096, pattern(4096, 1)],
      [5_000_192, pattern(1024, 2)],
    ]),
    gnuSparse('all-hole', 70_000, []),
  ),
  tar(whiteout('removed'), file('etc/hosts', 'localhost'), file('big2', pattern(200_000, 9))),
];

describe.skipIf(!root)('a mount through FusePool', () => {
  it('shows the same as the kernel of the same image: every attribute, xattr and byte', async () => {
    plane = await new FusePlane(richLayers).mount();
    const found = snapshotTree(plane.mountPoint);
    const expected = withKernelMount(richLayers, (mountPoint) => snapshotTree(mountPoint));
    expect(compareTrees(found, expected)).toEqual([]);
    expect(found.size).toBeGreaterThan(20);
    const stats = plane.pool.stats();
    expect(stats.hits).toBeGreaterThan(0);
    expect([stats.misses, stats.faults, stats.changed]).toEqual([0, 0, 0]);
  });

  it('numbers inodes and blocks as the kernel does, but asks for larger buffers', async () => {
    plane = await new FusePlane(richLayers).mount();
    const { mountPoint } = plane;
    withKernelMount(richLayers, (oracle) => {
      for (const name of readdirSync(oracle)) {
        const mine = statSync(join(mountPoint, name), { throwIfNoEntry: false });
        const theirs = statSync(join(oracle, name), { throwIfNoEntry: false });
        // Of a sparse file the kernel's EROFS gives the size in blocks. Ours are those that store something.
        const blocks = { sparse: 10, 'all-hole': 0 }[name] ?? theirs?.blocks;
        expect([name, mine?.ino, mine?.blocks]).toEqual([name, theirs?.ino, blocks]);
      }
      expect(statSync(mountPoint).ino).toBe(statSync(oracle).ino);
    });
    expect(statSync(join(mountPoint, 'big')).blksize).toBe(4096);
    expect(statfsSync(mountPoint).bfree).toBe(0);
    expect(statfsSync(mountPoint).files).toBeGreaterThanOrEqual(20);
  });

  it('keeps POSIX ACLs, and the kernel enforces them', async () => {
    const layers = [
      tar(file('guarded', 'for some', { mode: 0o750, xattrs: { 'system.posix_acl_access': ACL } }), file('plain', 'x')),
    ];
    plane = await new FusePlane(layers).mount();
    const path = join(plane.mountPoint, 'guarded');
    expect(listXattr(path).map(String)).toEqual(['system.posix_acl_access']);
    expect(getXattr(path, 'system.posix_acl_access')).toEqual(ACL);
    expect(getXattr(join(plane.mountPoint, 'plain'), 'system.posix_acl_access')).toBeNull();
    const as = (uid: number): string =>
      execFileSync('setpriv', [`--reuid=${uid}`, '--regid=4000', '--clear-groups', 'sh', '-c', `cat ${path} || true`], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      });
    execFileSync('chmod', ['711', plane.directory]);
    expect(as(1000)).toBe('for some');
    expect(as(1001)).toBe('');
  });

  it('answers xattrs with "none" or "not supported" as the tree has any', async () => {
    plane = await new FusePlane([tar(file('f'))]).mount();
    expect(() => getXattr(join(plane!.mountPoint, 'f'), 'user.none')).toThrow(/EOPNOTSUPP/);
    expect(listXattr(join(plane.mountPoint, 'f'))).toEqual([]);
  });

  it('lists 10,000 entries, whole and from any place that telldir gave', async () => {
    const names = Array.from({ length: 10_000 }, (_, i) => `d/entry-${i}-${'y'.repeat(i % 50)}`);
    plane = await new FusePlane([tar(dir('d'), ...names.map((name) => file(name)))]).mount();
    const path = join(plane.mountPoint, 'd');
    const sorted = names.map((name) => name.slice(2)).sort();
    expect(readdirSync(path).sort()).toEqual(sorted);
    // Goes back to places passed before, out of order, before and after the directory is cached by the kernel.
    const script = `opendir(D, $ARGV[0]); my (@at, @name);
      while (1) { my $t = telldir(D); my $n = readdir(D); last unless defined $n; push @at, $t; push @name, $n; }
      my $bad = 0;
      for (my $k = 0; $k < 2000; $k++) { my $i = ($k * 7919) % @at; seekdir(D, $at[$i]); $bad++ if readdir(D) ne $name[$i]; }
      print scalar(@name), " ", $bad;`;
    for (let round = 0; round < 2; round++) {
      expect(execFileSync('perl', ['-e', script, path], { encoding: 'utf8' })).toBe('10002 0');
    }
  });

  it('finds data and holes where the kernel does', async () => {
    plane = await new FusePlane(richLayers).mount();
    const walk = (mountPoint: string, name: string): number[] => {
      const fd = openSync(join(mountPoint, name), 'r');
      const places: number[] = [];
      for (let at = 0; places.length < 20; ) {
        const data = sys.lseek(fd, at, 3);
        places.push(data);
        if (data < 0) break;
        at = sys.lseek(fd, data, 4);
        places.push(at);
      }
      closeSync(fd);
      return places;
    };
    for (const name of ['sparse', 'all-hole', 'big', 'old']) {
      const expected = withKernelMount(richLayers, (oracle) => walk(oracle, name));
      expect([name, walk(plane.mountPoint, name)]).toEqual([name, expected]);
    }
  });

  it('says what a sparse file takes, so that cp leaves its holes out', async () => {
    const odd = gnuSparse('odd', 30_000_000, [
      [777, pattern(1000, 3)],
      [20_100_001, pattern(70_003, 4)],
    ]);
    plane = await new FusePlane([tar(gnuSparse('hole', 50_000_000, []), odd, file('plain', pattern(1000, 1)))]).mount();
    const copies = mkdtempSync(join(tmpdir(), 'clip-sparse-'));
    try {
      for (const [name, blocks] of Object.entries({ hole: 0, odd: 139, plain: 2 })) {
        const path = join(plane.mountPoint, name);
        expect([name, statSync(path).blocks]).toEqual([name, blocks]);
        execFileSync('cp', ['-a', path, copies]);
        expect(readFileSync(join(copies, name)).equals(readFileSync(path))).toBe(true);
        // ext4 stores whole pages.
        expect(statSync(join(copies, name)).blocks).toBeLessThanOrEqual(blocks + 32);
      }
    } finally {
      rmSync(copies, { recursive: true });
    }
  });

  it('reads files that only the placement can place: data off the block grid', async () => {
    const pieces = [
      [777, pattern(1000, 3)],
      [100_001, pattern(70_003, 4)],
      [200_000, pattern(5, 5)],
    ] as const;
    plane = await new FusePlane([tar(gnuSparse('odd', 300_000, pieces), file('after', 'intact'))]).mount();
    expect(plane.spec().placement?.count).toBeGreaterThan(0);
    const expected = Buffer.alloc(300_000);
    for (const [at, data] of pieces) data.copy(expected, at);
    const path = join(plane.mountPoint, 'odd');
    expect(readFileSync(path).equals(expected)).toBe(true);
    const fd = openSync(path, 'r');
    for (const [at, length] of [
      [0, 778],
      [776, 3],
      [1700, 98_400],
      [170_000, 30_010],
      [299_990, 100],
    ] as const) {
      const out = Buffer.alloc(length);
      const count = sys.pread(fd, out, length, at);
      expect(out.subarray(0, count).equals(expected.subarray(at, at + length))).toBe(true);
    }
    expect([sys.lseek(fd, 0, 3), sys.lseek(fd, 777, 4), sys.lseek(fd, 200_005, 3)]).toEqual([777, 1777, -6]);
    closeSync(fd);
    expect(readFileSync(join(plane.mountPoint, 'after'), 'utf8')).toBe('intact');
  });

  it('serves 16 readers at once', async () => {
    const files = Array.from({ length: 12 }, (_, i) => ({ name: `f${i}`, data: pattern(700_000 + i * 1111, i + 1) }));
    plane = await new FusePlane([tar(...files.map(({ name, data }) => file(name, data)))], { workers: 4 }).mount();
    const { mountPoint } = plane;
    execFileSync('sync', [join(plane.directory, 'layer0')]);
    writeFileSync('/proc/sys/vm/drop_caches', '1'); // the cache file too: workers wait for the disk and hand the lead on
    const reader = (start: number): Promise<number> =>
      new Promise((resolve) => {
        const order = files.map((_, i) => files[(i * 5 + start) % files.length]!.name);
        const child = spawn(
          'sh',
          ['-c', `cd ${mountPoint} && cat ${order.join(' ')} | cksum && cmp ${order[0]} ${order[0]}`],
          {
            stdio: ['ignore', 'pipe', 'inherit'],
          },
        );
        let out = '';
        child.stdout.on('data', (chunk) => {
          out += String(chunk);
        });
        child.on('close', () => {
          const expected = execFileSync('cksum', {
            input: Buffer.concat(order.map((name) => files.find((f) => f.name === name)!.data)),
          });
          resolve(out === String(expected) ? 0 : 1);
        });
      });
    const bad = await Promise.all(Array.from({ length: 16 }, (_, i) => reader(i)));
    expect(bad.every((each) => each === 0)).toBe(true);
    expect(plane.pool.stats().misses).toBe(0);
  });

  it('answers a thread that is the only one to ask on its CPU, and lets its worker go when another asks', async () => {
    const names = Array.from({ length: 200 }, (_, i) => `f${i}`);
    plane = await new FusePlane([tar(...names.map((name) => file(name, name)))]).mount();
    const allowed = (): string[] =>
      readdirSync('/proc/self/task').map(
        (task) => /Cpus_allowed_list:\t(.*)/.exec(readFileSync(`/proc/self/task/${task}/status`, 'utf8'))![1]!,
      );
    const before = allowed();
    const cpu = /\d+$/.exec(before[0]!)![0];
    const pinned = (list: readonly string[]): number => list.filter((each) => each === cpu).length;
    // One thread of its own, so that this one may look meanwhile.
    const paths = names.slice(1).map((name) => join(plane!.mountPoint, name));
    const child = spawn('taskset', ['-c', cpu, 'stat', '-c', '%s', ...paths], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    expect(await new Promise((resolve) => child.on('close', resolve))).toBe(0);
    if (pinned(before) === 0) expect(pinned(allowed())).toBe(1);
    statSync(join(plane.mountPoint, 'f0'));
    // The answer comes before the worker goes back to wait.
    while (pinned(allowed()) !== pinned(before)) await new Promise((resolve) => setTimeout(resolve, 1));
  });

  it.each(['', ',xino=on', ',index=on'])('carries an overlay (%s) whose files outlive inodes', async (options) => {
    plane = await new FusePlane(richLayers).mount();
    const merged = join(plane.directory, 'merged');
    for (const name of ['upper', 'work', 'merged']) mkdirSync(join(plane.directory, name));
    const data = `lowerdir=${plane.mountPoint},upperdir=${plane.directory}/upper,workdir=${plane.directory}/work${options}`;
    mountFileSystem({ type: 'overlay', source: 'overlay', target: merged, flags: 0, data });
    try {
      const hosts = join(merged, 'etc/hosts');
      appendFileSync(hosts, ' and more');
      writeFileSync(join(merged, 'etc/new'), 'new');
      rmSync(join(merged, 'big2'));
      writeFileSync('/proc/sys/vm/drop_caches', '2');
      expect(readFileSync(hosts, 'utf8')).toBe('localhost and more');
      expect(readdirSync(join(merged, 'etc')).sort()).toEqual(['hosts', 'new', 'passwd', 'passwd-']);
      expect(readdirSync(merged)).not.toContain('big2');
      expect(readFileSync(join(plane.mountPoint, 'etc/hosts'), 'utf8')).toBe('localhost');
    } finally {
      unmount(merged);
    }
  });

  it('notices once that another program has unmounted, and then rests', async () => {
    let calls = 0;
    plane = new FusePlane([tar(file('f', 'x'))], { onGone: () => calls++ });
    await plane.mount();
    expect(readFileSync(join(plane.mountPoint, 'f'), 'utf8')).toBe('x');
    execFileSync('umount', [plane.mountPoint]);
    await vi.waitUntil(() => calls > 0, { timeout: 10_000 });
    const before = process.cpuUsage();
    await new Promise((resolve) => setTimeout(resolve, 500));
    const used = process.cpuUsage(before);
    expect(calls).toBe(1);
    expect(used.user + used.system).toBeLessThan(100_000); // µs in half a second: no loop spins
  });

  it('notices an aborted connection, and one more mount is served by the same workers', async () => {
    plane = await new FusePlane([tar(file('f', 'x'))]).mount();
    const control = mkdtempSync(join(tmpdir(), 'clip-fusectl-'));
    mountFileSystem({ type: 'fusectl', source: 'fusectl', target: control, flags: 0 });
    // A connection is named by the minor number of its st_dev.
    const minor = readMountInfo()
      .find((mount) => mount.mountPoint === plane!.mountPoint)!
      .device.split(':')[1]!;
    writeFileSync(join(control, minor, 'abort'), '1');
    unmount(control);
    rmdirSync(control);
    expect(await plane.gone).toMatch(/ENODEV|ECONNABORTED/);
    expect(() => statSync(join(plane!.mountPoint, 'f'))).toThrow(/ENOTCONN/);
    unmount(plane.mountPoint);
    const second = new FusePlane([tar(file('g', 'second'))]);
    await second.mount();
    expect(readFileSync(join(second.mountPoint, 'g'), 'utf8')).toBe('second');
    await second.close();
  });
});
