import { execFileSync, spawn } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  bindMountAt,
  closeFd,
  createEventFd,
  detachMount,
  Epoll,
  Errno,
  flags,
  getXattr,
  lastCpuOf,
  listenUnix,
  listXattr,
  mountErofs,
  mountIdOf,
  openErofs,
  parseMountInfo,
  peerCredentials,
  punchHole,
  readMountInfo,
  readsDirectly,
  receiveDescriptors,
  SystemCallError,
  sendDescriptors,
  setReadAhead,
  setXattr,
  signalEventFd,
  socketPair,
  sys,
  ThreadPins,
  threadId,
  tryLock,
  unixSocket,
  unmount,
} from './index.js';

const root = process.getuid?.() === 0;
let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'clip-linux-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

describe('raw calls', () => {
  it('returns −errno and throws nothing', () => {
    expect(sys.read(-1, Buffer.alloc(8), 8)).toBe(-Errno.EBADF);
    expect(sys.lgetxattr('/nonexistent', 'user.x', null, 0)).toBe(-Errno.ENOENT);
  });

  it('reads into ordinary, shared and addressed memory, at offsets beyond 4 GiB', () => {
    const path = join(dir, 'far');
    writeFileSync(path, '');
    const fd = openSync(path, 'r+');
    const far = 2 ** 40 + 3;
    expect(writeSync(fd, Buffer.from('hello'), 0, 5, far)).toBe(5);
    const plain = Buffer.alloc(8);
    const shared = Buffer.from(new SharedArrayBuffer(8));
    const large = Buffer.allocUnsafeSlow(4096).fill(0);
    expect(sys.pread(fd, plain, 8, far)).toBe(5);
    expect(sys.pread(fd, shared, 8, far)).toBe(5);
    expect(sys.pread(fd, sys.addressOf(large) + 100, 8, far)).toBe(5);
    expect(plain.toString('latin1', 0, 5)).toBe('hello');
    expect(shared.toString('latin1', 0, 5)).toBe('hello');
    expect(large.toString('latin1', 100, 105)).toBe('hello');
    closeSync(fd);
  });

  it('keeps an address valid when the garbage collector moves small objects', () => {
    const small = Buffer.alloc(16);
    const address = sys.addressOf(small);
    const junk: Buffer[] = [];
    for (let i = 0; i < 200_000; i++) junk[i % 100] = Buffer.alloc(40);
    const fd = openSync(join(dir, 'far'), 'r');
    sys.pread(fd, address, 5, 2 ** 40 + 3);
    closeSync(fd);
    expect(small.toString('latin1', 0, 5)).toBe('hello');
  });
});

describe('CPUs', () => {
  it('keeps a thread on one, sees it there, and lets it go', () => {
    const self = threadId();
    const allowed = (): string =>
      /Cpus_allowed_list:\t(.*)/.exec(readFileSync(`/proc/thread-self/status`, 'utf8'))![1]!;
    const before = allowed();
    const pins = new ThreadPins();
    const cpu = Number(/\d+$/.exec(before)![0]);
    expect(pins.pin(self, cpu)).toBe(true);
    expect([allowed(), lastCpuOf(self)]).toEqual([String(cpu), cpu]);
    expect(pins.pin(self, 8191)).toBe(false);
    expect(pins.pin(self, 1 << 20)).toBe(false);
    pins.release(self);
    expect(allowed()).toBe(before);
    expect(lastCpuOf(2 ** 30)).toBe(-1);
  });
});

describe('files', () => {
  it('punches a hole and keeps the size', () => {
    const path = join(dir, 'holes');
    writeFileSync(path, Buffer.alloc(1 << 20, 1));
    const fd = openSync(path, 'r+');
    punchHole(fd, 4096, 1 << 19);
    const stat = fstatSync(fd);
    closeSync(fd);
    expect(stat.size).toBe(1 << 20);
    expect(stat.blocks * 512).toBeLessThanOrEqual((1 << 19) + 8192);
    expect(
      readFileSync(path)
        .subarray(4096, 4096 + (1 << 19))
        .every((byte) => byte === 0),
    ).toBe(true);
  });

  it('locks between open files, not descriptors', () => {
    const path = join(dir, 'lock');
    const a = openSync(path, 'w');
    const b = openSync(path, 'r');
    expect(tryLock(a)).toBe(true);
    expect(tryLock(a)).toBe(true);
    expect(tryLock(b)).toBe(false);
    closeSync(a);
    expect(tryLock(b)).toBe(true);
    closeSync(b);
  });

  it.skipIf(!root)('sets, lists and gets xattrs with names and values of any bytes', () => {
    const path = join(dir, 'xattr');
    writeFileSync(path, '');
    const name = Buffer.concat([Buffer.from('trusted.'), Buffer.from([0xff, 0xfe])]);
    const value = Buffer.from([0, 1, 2, 0]);
    setXattr(path, name, value);
    expect(listXattr(path)).toContainEqual(name);
    expect(getXattr(path, name)).toEqual(value);
    expect(getXattr(path, 'trusted.none')).toBeNull();
    expect(() => getXattr('/nonexistent', 'trusted.x')).toThrow(/get xattr trusted.x of \/nonexistent: ENOENT/);
  });
});

describe('epoll', () => {
  it('wakes by eventfd and tells who', () => {
    const epoll = new Epoll(4);
    const event = createEventFd();
    epoll.add(event, 0xfffffff0, true);
    expect(epoll.wait(0)).toBe(0);
    signalEventFd(event);
    expect(epoll.wait(-1)).toBe(1);
    expect(epoll.token(0)).toBe(0xfffffff0);
    expect(epoll.events(0)).toBe(flags.EPOLLIN);
    epoll.remove(event);
    expect(epoll.wait(0)).toBe(0);
    sys.close(event);
    epoll.close();
  });
});

describe('sockets', () => {
  it.each(['stream', 'seqpacket'] as const)('sends descriptors over a %s pair, closed on exec', (type) => {
    const [a, b] = socketPair(type);
    writeFileSync(join(dir, 'sent'), 'content');
    const fd = openSync(join(dir, 'sent'), 'r');
    sendDescriptors(a, Buffer.from('{"id":7}'), [fd, fd]);
    closeSync(fd);
    const message = receiveDescriptors(b)!;
    expect(message?.data.toString()).toBe('{"id":7}');
    expect(message?.fds).toHaveLength(2);
    for (const received of message.fds) {
      expect(sys.fcntl(received, 1, 0)).toBe(1); // F_GETFD: FD_CLOEXEC
      expect(readFileSync(`/proc/self/fd/${received}`, 'utf8')).toBe('content');
      closeSync(received);
    }
    expect(receiveDescriptors(b, 100, false)).toBeUndefined();
    closeSync(a);
    expect(receiveDescriptors(b)).toBeNull();
    closeSync(b);
  });

  it('listens on a socket whose descriptor another process can serve', async () => {
    const path = join(dir, 'control.sock');
    const fd = unixSocket();
    listenUnix(fd, path);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const client = connect(path); // waits in the backlog until the child accepts
    const child = spawn(
      process.execPath,
      ['-e', "require('net').createServer(c => c.end('served by the child')).listen({fd: 3})"],
      { stdio: ['ignore', 'inherit', 'inherit', fd] },
    );
    const answer = await new Promise<string>((resolve, reject) => {
      let text = '';
      client.on('data', (chunk) => {
        text += chunk.toString();
      });
      client.on('end', () => resolve(text));
      client.on('error', reject);
    });
    child.kill('SIGKILL');
    closeSync(fd);
    expect(answer).toBe('served by the child');
    const other = unixSocket();
    expect(() => listenUnix(other, `/tmp/${'x'.repeat(110)}`)).toThrow(/ENAMETOOLONG/);
    expect(() => listenUnix(other, path)).toThrow(/listen on .*: EADDRINUSE/);
    closeSync(other);
  });
});

describe('peer credentials', () => {
  it.skipIf(!root)('are those of the process that connected', async () => {
    const path = join(dir, 'peer.sock');
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(path, resolve));
    chmodSync(path, 0o666);
    chmodSync(dir, 0o711);
    const child = spawn(process.execPath, ['-e', `require('net').connect(${JSON.stringify(path)})`], {
      uid: 65534,
      gid: 65533,
    });
    const socket = await new Promise<Socket>((resolve) => server.once('connection', resolve));
    const { fd } = (socket as unknown as { _handle: { fd: number } })._handle;
    expect(peerCredentials(fd)).toEqual({ pid: child.pid, uid: 65534, gid: 65533 });
    child.kill('SIGKILL');
    socket.destroy();
    server.close();
    expect(() => peerCredentials(-1)).toThrow(/EBADF/);
  });
});

describe('mounts', () => {
  it('decodes mountinfo', () => {
    const [entry] = parseMountInfo(
      '36 35 98:0 /mnt1 /mnt/a\\040b\\303\\251 rw,noatime shared:1 - fuse.clip clip:x rw,errors=continue\n',
    );
    expect(entry).toEqual({
      id: 36,
      parent: 35,
      device: '98:0',
      root: '/mnt1',
      mountPoint: '/mnt/a bé',
      options: ['rw', 'noatime'],
      type: 'fuse.clip',
      source: 'clip:x',
      superOptions: ['rw', 'errors=continue'],
    });
  });

  it.skipIf(!root)('bind-mounts at a descriptor read-only, without setuid and devices, and unmounts', () => {
    const source = mkdtempSync(join(dir, 'source-'));
    const target = mkdtempSync(join(dir, 'target-'));
    writeFileSync(join(source, 'f'), 'x');
    const directory = openSync(target, flags.O_PATH);
    const id = bindMountAt(source, directory, target, flags.MS_RDONLY | flags.MS_NOSUID | flags.MS_NODEV);
    closeSync(directory);
    const info = readMountInfo().find((mount) => mount.id === id)!;
    expect(info.mountPoint).toBe(target);
    expect(info.options).toEqual(expect.arrayContaining(['ro', 'nosuid', 'nodev']));
    expect(() => writeFileSync(join(target, 'g'), '')).toThrow(/EROFS/);
    const held = openSync(join(target, 'f'), 'r');
    expect(() => unmount(target)).toThrow(new SystemCallError(`unmount ${target}`, Errno.EBUSY));
    unmount(target, 'lazy');
    closeSync(held);
    expect(readMountInfo().some((mount) => mount.mountPoint === target)).toBe(false);
    expect(() => unmount(target)).toThrow(/EINVAL/);
  });

  it.skipIf(!root)('detaches the mount on top of an open directory', () => {
    const target = mkdtempSync(join(dir, 'covered-'));
    const at = (): number => openSync(target, flags.O_PATH);
    const mount = (source: string): number => {
      const directory = at();
      const id = bindMountAt(mkdtempSync(join(dir, source)), directory, target);
      closeSync(directory);
      return id;
    };
    // Ids are used again by mounts of other processes: the place counts.
    const mountedHere = (): number[] =>
      readMountInfo()
        .filter((entry) => entry.mountPoint === target)
        .map((entry) => entry.id);
    const below = mount('below-');
    const fd = at();
    expect(mountIdOf(fd)).toBe(below);
    const above = mount('above-');
    expect(mountedHere()).toEqual([below, above]);
    detachMount(fd, target); // a covering mount is met first
    expect(mountedHere()).toEqual([below]);
    detachMount(fd, target);
    closeSync(fd);
    expect(mountedHere()).toEqual([]);
  });

  it.skipIf(!root)('mounts EROFS with its devices and says why it cannot', () => {
    const source = mkdtempSync(join(dir, 'erofs-'));
    writeFileSync(join(source, 'file'), 'hello');
    const image = join(dir, 'image.erofs');
    execFileSync('mkfs.erofs', [image, source], { stdio: 'ignore' });
    const target = mkdtempSync(join(dir, 'mnt-'));
    mountErofs(image, [], target);
    try {
      expect(readFileSync(join(target, 'file'), 'utf8')).toBe('hello');
    } finally {
      unmount(target);
    }
    expect(() => mountErofs(image, [image], target)).toThrow(/mount erofs .*EINVAL/);
    expect(() => mountErofs(join(dir, 'none'), [], target)).toThrow(/ENOENT/);
  });

  it.skipIf(!root)('sets how far the kernel reads ahead in an EROFS mount, and in no other', () => {
    const image = join(dir, 'ahead.erofs');
    execFileSync('mkfs.erofs', [image, mkdtempSync(join(dir, 'ahead-'))], { stdio: 'ignore' });
    const [one, other] = [openErofs(image, []), openErofs(image, [], { directio: true })];
    try {
      const values = (): string[] =>
        readdirSync('/sys/class/bdi')
          .filter((name) => name.startsWith('erofs'))
          .map((name) => readFileSync(`/sys/class/bdi/${name}/read_ahead_kb`, 'utf8').trim());
      const rare = (): number => values().filter((value) => value === '1732').length;
      expect(setReadAhead(other, 1732 << 10)).toBe(true);
      expect(rare()).toBe(1);
    } finally {
      closeFd(one);
      closeFd(other);
    }
    const plain = openSync(dir, 'r');
    expect(setReadAhead(plain, 4096)).toBe(false);
    closeSync(plain);
  });

  it('knows files that cannot be read with O_DIRECT at the unit', () => {
    const path = join(dir, 'direct');
    writeFileSync(path, 'x'.repeat(4096));
    const fd = openSync(path, 'r');
    expect(readsDirectly(fd, 1)).toBe(false);
    const null_ = openSync('/dev/null', 'r');
    expect(readsDirectly(null_, 4096)).toBe(false);
    closeSync(null_);
    closeSync(fd);
  });
});
