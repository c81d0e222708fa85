import { describe, expect, it } from 'vitest';
import { buildErofs } from '../../test/support/planes.js';
import { dir, file, gnuSparse, symlink, tar } from '../../test/support/tar.js';
import { ErofsReader } from '../erofs/index.js';
import type { SharedLayer } from '../spans/index.js';
import { MAX_READ, Op, OUT_HEADER } from './abi.js';
import { Dispatcher, Outcome, type ServedImage } from './dispatch.js';

const GUARD = 64;

/** A dispatcher over plain memory, with guard bytes behind its reply buffer. */
class Bench {
  readonly request = Buffer.alloc(8192);
  readonly memory = Buffer.alloc(OUT_HEADER + MAX_READ + GUARD, 0xee);
  readonly faults: string[] = [];
  readonly image: ServedImage;
  readonly dispatcher: Dispatcher;

  constructor(
    readonly layerBytes: Uint8Array,
    { spanBytes = 4096, kernelReads = false } = {},
  ) {
    const built = buildErofs([layerBytes]);
    const count = Math.ceil(layerBytes.length / spanBytes);
    const offsets = Float64Array.from({ length: count + 1 }, (_, i) => Math.min(i * spanBytes, layerBytes.length));
    const layer: SharedLayer = {
      id: 0 as SharedLayer['id'],
      fd: 42,
      offsets,
      generations: new Int32Array(new SharedArrayBuffer(count * 4)).fill(1),
      lastUse: new Int32Array(count),
      clock: Int32Array.of(77),
    };
    this.image = { reader: new ErofsReader(built.image), layers: [layer], placement: built.placement, kernelReads };
    this.dispatcher = new Dispatcher(
      this.request,
      this.memory.subarray(0, OUT_HEADER + MAX_READ),
      (fd, position, length, offset) => {
        expect(fd).toBe(42);
        const data = this.layerBytes.subarray(offset, offset + length);
        this.memory.set(data, position);
        this.onRead();
        return data.length;
      },
    );
    this.dispatcher.onFault = (error) => this.faults.push(String(error));
  }

  onRead: () => void = () => {};

  get layer(): SharedLayer {
    return this.image.layers[0]!;
  }

  /** Handles raw request bytes; the reply's bytes, or the outcome when there is none. */
  raw(bytes: readonly number[] | Uint8Array): Buffer | number {
    this.request.fill(0xdd);
    this.request.set(bytes);
    const outcome = this.dispatcher.handle(this.image, bytes.length);
    expect(this.memory.subarray(OUT_HEADER + MAX_READ).every((byte) => byte === 0xee)).toBe(true);
    return outcome > 0 ? Buffer.from(this.memory.subarray(0, outcome)) : outcome;
  }

  call(opcode: number, nodeid: number, ...payload: Uint8Array[]): { error: number; body: Buffer } {
    const reply = this.raw(message(opcode, nodeid, ...payload));
    if (typeof reply === 'number') throw new Error(`no reply, outcome ${reply}`);
    expect(reply.readUInt32LE(0)).toBe(reply.length);
    expect(reply.readBigUInt64LE(8)).toBe(0x8000_0000_0000_0042n);
    return { error: Math.abs(reply.readInt32LE(4)), body: reply.subarray(16) };
  }

  nid(path: string): number {
    return this.image.reader.lookupPath(Buffer.from(path));
  }
}

function message(opcode: number, nodeid: number, ...payload: Uint8Array[]): Buffer {
  const body = Buffer.concat(payload);
  const head = Buffer.alloc(40);
  head.writeUInt32LE(40 + body.length, 0);
  head.writeUInt32LE(opcode, 4);
  head.writeBigUInt64LE(0x8000_0000_0000_0042n, 8); // bit 63: sent again after a take-over
  head.writeBigUInt64LE(BigInt(nodeid), 16);
  return Buffer.concat([head, body]);
}

/** Bytes written in hexadecimal, with blanks and comments. */
const hex = (text: string): Buffer => Buffer.from(text.replace(/\/\/.*|\s/g, ''), 'hex');
const u32 = (...values: number[]): Buffer => Buffer.from(Uint32Array.from(values).buffer);
const u64 = (...values: number[]): Buffer => Buffer.from(BigUint64Array.from(values.map(BigInt)).buffer);
const name = (text: string): Buffer => Buffer.from(`${text}\0`, 'latin1');
const readIn = (offset: number, size: number): Buffer =>
  Buffer.concat([u64(0, offset), u32(size, 0), u64(0), u32(0, 0)]);

const content = Buffer.from(Array.from({ length: 10_000 }, (_, i) => i % 251));
const bench = new Bench(
  tar(
    file('hello', 'hello world', {
      mode: 0o4750,
      uid: 1000,
      gid: 70_000,
      mtime: '-1.25',
      xattrs: { 'user.k': 'value' },
    }),
    file('data', content),
    dir('sub', { mode: 0o1777 }),
    symlink('sub/link', '../data'),
    gnuSparse('sparse', 100_000, [
      [20_480, Buffer.alloc(512, 7)],
      [61_440, Buffer.alloc(1024, 8)],
    ]),
  ),
);

describe('INIT', () => {
  it('answers with what we want of what the kernel offers', () => {
    const reply = bench.raw(
      hex(`
        68000000 1a000000                     // struct fuse_in_header: len 104, opcode 26 (INIT)
        0200000000000000 0000000000000000     // unique, nodeid
        00000000 00000000 00000000 00000000   // uid, gid, pid, extensions
        07000000 2d000000                     // struct fuse_init_in: 7.45
        00000200 fbffff73                     // max_readahead 128 KiB, flags as Linux 6.18 sends them
        ff030000 ${'00'.repeat(44)}           // flags2, unused
      `),
    );
    expect(reply).toEqual(
      hex(`
        50000000 00000000 0200000000000000    // struct fuse_out_header: len 80, no error, unique
        07000000 2d000000                     // struct fuse_init_out: 7.45
        00000200                              // max_readahead: what the kernel offered
        0160c641                              // flags: ASYNC_READ 0, DO_READDIRPLUS 13, READDIRPLUS_AUTO 14, NO_OPEN_SUPPORT 17,
                                              // PARALLEL_DIROPS 18, MAX_PAGES 22, CACHE_SYMLINKS 23, NO_OPENDIR_SUPPORT 24,
                                              // INIT_EXT 30; no POSIX_ACL 20: the tree holds none
        0010 000c                             // max_background 4096, congestion_threshold 3072
        00100000 01000000                     // max_write 4096, time_gran 1 ns
        0001 0000                             // max_pages 256, map_alignment
        80000000                              // flags2: HAS_RESEND 39, and not NO_EXPORT_SUPPORT 38
        ${'00'.repeat(28)}                    // unused
      `),
    );
  });

  it('asks for direct reads of no thread only where the kernel’s EROFS makes them', () => {
    const init = message(Op.INIT, 0, u32(7, 45, 131072, 0x73fffffb, 0), Buffer.alloc(44));
    const flags = (kernelReads: boolean): number => {
      const other = new Bench(tar(file('a', '')), { kernelReads });
      return (other.raw(init) as Buffer).readUInt32LE(16 + 12) & (1 << 15);
    };
    expect([flags(false), flags(true)]).toEqual([0, 1 << 15]);
  });

  it('asks for ACLs only when the tree has one', () => {
    const acl = Buffer.from('0200000001000700ffffffff04000500ffffffff20000500ffffffff', 'hex');
    const other = new Bench(tar(file('a', '', { xattrs: { 'system.posix_acl_access': acl } })));
    const init = message(Op.INIT, 0, u32(7, 45, 131072, 0x73fffffb, 0), Buffer.alloc(44));
    expect((other.raw(init) as Buffer).readUInt32LE(16 + 12) & (1 << 20)).toBe(1 << 20);
  });

  it('offers nothing the kernel did not, refuses one before Linux 5.4, and answers a newer major with its own', () => {
    const old = bench.raw(message(Op.INIT, 0, u32(7, 31, 131072, 1))) as Buffer;
    expect(old.readUInt32LE(16 + 12)).toBe(1);
    const ancient = bench.raw(message(Op.INIT, 0, u32(7, 30, 131072, -1 >>> 0))) as Buffer;
    expect(ancient.readInt32LE(4)).toBe(-71); // EPROTO
    expect(bench.faults.pop()).toMatch(/Linux 5.4/);
    const newer = bench.raw(message(Op.INIT, 0, u32(8, 0, 131072, 0))) as Buffer;
    expect([newer.readUInt32LE(16), newer.readUInt32LE(20)]).toEqual([7, 45]);
  });
});

describe('LOOKUP', () => {
  it('finds a name and gives its attributes for ever', () => {
    const nid = bench.nid('hello');
    const reply = bench.raw(
      hex(`
        2e000000 01000000                     // struct fuse_in_header: len 46, opcode 1 (LOOKUP)
        1032547698badcfe 0100000000000000     // unique, nodeid: the root
        00000000 00000000 00000000 00000000   // uid, gid, pid, extensions
        68656c6c6f00                          // "hello"
      `),
    );
    expect(nid).toBeLessThan(256);
    const id = `${nid.toString(16).padStart(2, '0')}00000000000000`;
    expect(reply).toEqual(
      hex(`
        90000000 00000000 1032547698badcfe    // struct fuse_out_header: len 144, no error, unique as it came
        ${id} 0000000000000000                // struct fuse_entry_out: nodeid = nid, generation
        ffffffff00000000 ffffffff00000000     // entry_valid, attr_valid
        00000000 00000000                     // nanoseconds of both
        ${id} 0b00000000000000                // struct fuse_attr: ino = nid, size
        0100000000000000                      // blocks of 512
        feffffffffffffff feffffffffffffff     // atime, mtime: −2 s …
        feffffffffffffff                      // ctime
        8017b42c 8017b42c 8017b42c            // … and 750,000,000 ns each
        e8890000 01000000                     // mode 0104750, nlink
        e8030000 70110100                     // uid 1000, gid 70000
        00000000 00100000 00000000            // rdev, blksize 4096, flags
      `),
    );
  });

  it('answers a missing name with an entry that may be remembered: node id 0', () => {
    const { error, body } = bench.call(Op.LOOKUP, 1, name('nothing'));
    expect(error).toBe(0);
    expect(body.length).toBe(128);
    expect(body.readBigUInt64LE(0)).toBe(0n);
    expect(body.readBigUInt64LE(16)).toBe(0xffff_ffffn);
  });

  it('gives the root its node id when a directory entry leads back to it', () => {
    const { body } = bench.call(Op.GETATTR, 1);
    expect(body.readBigUInt64LE(16)).toBe(BigInt(bench.image.reader.rootNid));
    expect(body.readUInt32LE(16 + 64)).toBe(3); // nlink: 2 + sub
  });

  it('refuses what cannot be: no name, a name too long, a node outside the image', () => {
    expect(bench.call(Op.LOOKUP, 1, Buffer.of(0)).error).toBe(22);
    expect(bench.call(Op.LOOKUP, 1, name('x'.repeat(256))).error).toBe(36);
    expect(bench.call(Op.LOOKUP, 2 ** 40, name('x')).error).toBe(5);
    expect(bench.faults.pop()).toMatch(/outside the image/);
  });
});

describe('READ', () => {
  it.each([
    [0, 4096],
    [4095, 2],
    [0, 100_000],
    [9_999, 10],
    [10_000, 10],
    [2 ** 40, 4096],
    [5000, 0],
  ])('gives bytes from %i, at most %i', (offset, size) => {
    const { error, body } = bench.call(Op.READ, bench.nid('data'), readIn(offset, size));
    expect(error).toBe(0);
    expect(body.equals(content.subarray(offset, offset + size))).toBe(true);
  });

  it('fills holes with zeros and reads on behind them', () => {
    const { body } = bench.call(Op.READ, bench.nid('sparse'), readIn(16_384, 65_536));
    const expected = Buffer.alloc(65_536);
    expected.fill(7, 4096, 4096 + 512);
    expected.fill(8, 61_440 - 16_384, 61_440 - 16_384 + 1024);
    expect(body.equals(expected)).toBe(true);
  });

  it('notes the use of each span it touched', () => {
    const { layer } = bench;
    layer.lastUse.fill(0);
    bench.call(Op.READ, bench.nid('data'), readIn(0, 10_000));
    const touched: number[] = [];
    bench.image.reader.mapRange(bench.nid('data'), 0, 10_000, (_, offset, length) => {
      for (let span = Math.floor(offset / 4096); span * 4096 < offset + length; span++) touched.push(span);
    });
    expect([...layer.lastUse].flatMap((use, span) => (use === 77 ? [span] : []))).toEqual(touched);
  });

  it('misses when a span is not there, or changes under the read', () => {
    const other = new Bench(tar(file('data', content)));
    const nid = other.nid('data');
    const { generations } = other.layer;
    generations[1] = 2;
    expect(other.raw(message(Op.READ, nid, readIn(0, 10_000)))).toBe(Outcome.miss);
    const { missNid, missOffset, missSize, unique } = other.dispatcher;
    expect([missNid, missOffset, missSize, unique]).toEqual([nid, 0, 10_000, 0x8000_0000_0000_0042n]);
    expect(other.call(Op.READ, nid, readIn(0, 1000)).body.equals(content.subarray(0, 1000))).toBe(true);
    generations[1] = 3;
    other.onRead = () => Atomics.add(generations, 1, 1); // evicted while it is copied
    expect(other.raw(message(Op.READ, nid, readIn(0, 10_000)))).toBe(Outcome.miss);
    expect(other.dispatcher.readPath.changed).toBe(1);
    other.onRead = () => Atomics.add(generations, 1, 2); // and filled again: odd, but another
    generations[1] = 3;
    expect(other.raw(message(Op.READ, nid, readIn(0, 10_000)))).toBe(Outcome.miss);
  });

  it('misses when the cache file is shorter than its spans, or there is none', () => {
    const other = new Bench(tar(file('data', content)));
    const whole = other.layerBytes;
    Object.assign(other, { layerBytes: whole.subarray(0, 2048) });
    expect(other.raw(message(Op.READ, other.nid('data'), readIn(0, 10_000)))).toBe(Outcome.miss);
    Object.assign(other.layer, { fd: -1 });
    expect(other.raw(message(Op.READ, other.nid('data'), readIn(0, 10_000)))).toBe(Outcome.miss);
  });

  it('is EIO on a directory', () => {
    expect(bench.call(Op.READ, 1, readIn(0, 10)).error).toBe(5);
    expect(bench.faults.pop()).toMatch(/not a regular file/);
  });
});

/** Names, inos and types of a READDIR reply, and the cookie after the last. */
function entries(body: Buffer, plus: boolean): { names: string[]; nodeids: number[]; next: number } {
  const names: string[] = [];
  const nodeids: number[] = [];
  let next = 0;
  for (let at = 0; at < body.length; ) {
    if (plus) {
      nodeids.push(Number(body.readBigUInt64LE(at)));
      at += 128;
    }
    next = Number(body.readBigUInt64LE(at + 8));
    const length = body.readUInt32LE(at + 16);
    names.push(body.toString('latin1', at + 24, at + 24 + length));
    at += (24 + length + 7) & ~7;
  }
  return { names, nodeids, next };
}

describe('READDIR', () => {
  it('lists in records padded to eight', () => {
    const sub = bench.nid('sub');
    const link = bench.nid('sub/link');
    const root = bench.image.reader.rootNid;
    const { body } = bench.call(Op.READDIR, sub, readIn(0, 4096));
    expect(entries(body, false).names).toEqual(['.', '..', 'link']);
    const id = (value: number): string => u64(value).toString('hex');
    const expected = hex(`
      ${id(sub)} ${id(12)} 01000000 04000000    // struct fuse_dirent: ino, off of the next, namelen, type 4 (directory)
      2e00000000000000                          // "."
      ${id(root)} ${id(24)} 02000000 04000000
      2e2e000000000000                          // ".."
      ${id(link)}`);
    expect(body.subarray(0, expected.length)).toEqual(expected);
    // After the last cookie: namelen 4, type 10 (symlink), "link".
    expect(body.subarray(expected.length + 8)).toEqual(hex('04000000 0a000000 6c696e6b00000000'));
  });

  it.each([Op.READDIR, Op.READDIRPLUS])('resumes anywhere with buffers of any size (opcode %i)', (opcode) => {
    const names = Array.from({ length: 500 }, (_, i) => `file-${String(i).padStart(3, '0')}${'x'.repeat(i % 40)}`);
    const other = new Bench(tar(...names.map((each) => file(each))));
    const plus = opcode === Op.READDIRPLUS;
    for (const size of [plus ? 256 : 128, 512, 4096]) {
      const found: string[] = [];
      for (let cookie = 0; ; ) {
        const { body } = other.call(opcode, 1, readIn(cookie, size));
        expect(body.length).toBeLessThanOrEqual(size);
        if (body.length === 0) break;
        const page = entries(body, plus);
        found.push(...page.names);
        cookie = page.next;
      }
      expect(found.sort()).toEqual(['.', '..', ...names].sort());
    }
  });

  it('with attributes, takes no reference on "." and ".."', () => {
    const { body } = bench.call(Op.READDIRPLUS, 1, readIn(0, 4096));
    const { names, nodeids } = entries(body, true);
    expect(names).toEqual(['.', '..', 'data', 'hello', 'sparse', 'sub']);
    expect(nodeids).toEqual([0, 0, ...['data', 'hello', 'sparse', 'sub'].map((each) => bench.nid(each))]);
  });

  it('is EIO on a file', () => {
    expect(bench.call(Op.READDIR, bench.nid('data'), readIn(0, 4096)).error).toBe(5);
  });
});

describe('the rest', () => {
  it('reads links, whole', () => {
    expect(bench.call(Op.READLINK, bench.nid('sub/link')).body.toString()).toBe('../data');
  });

  it('gives xattrs by the protocol of two calls, and hides trusted ones from users', () => {
    const nid = bench.nid('hello');
    expect(bench.call(Op.GETXATTR, nid, u32(0, 0), name('user.k')).body).toEqual(u32(5, 0));
    expect(bench.call(Op.GETXATTR, nid, u32(5, 0), name('user.k')).body.toString()).toBe('value');
    expect(bench.call(Op.GETXATTR, nid, u32(4, 0), name('user.k')).error).toBe(34); // ERANGE
    expect(bench.call(Op.GETXATTR, nid, u32(99, 0), name('user.')).error).toBe(61); // ENODATA
    expect(bench.call(Op.LISTXATTR, nid, u32(0, 0)).body).toEqual(u32(7, 0));
    expect(bench.call(Op.LISTXATTR, nid, u32(7, 0)).body.toString()).toBe('user.k\0');
    expect(bench.call(Op.LISTXATTR, 1, u32(7, 0)).body.length).toBe(0);
    const other = new Bench(tar(file('f', '', { xattrs: { 'trusted.t': '1', 'user.u': '2' } })));
    const list = message(Op.LISTXATTR, other.nid('f'), u32(99, 0));
    expect((other.raw(list) as Buffer).toString('latin1', 16)).toBe('trusted.t\0user.u\0');
    list.writeUInt32LE(1000, 24); // uid
    expect((other.raw(list) as Buffer).toString('latin1', 16)).toBe('user.u\0');
  });

  it('says ENOSYS to GETXATTR only for a tree without any', () => {
    const other = new Bench(tar(file('f')));
    expect(other.call(Op.GETXATTR, other.nid('f'), u32(0, 0), name('user.k')).error).toBe(38);
    expect(other.call(Op.LISTXATTR, other.nid('f'), u32(0, 0)).body).toEqual(u32(0, 0));
  });

  it.each([
    [0, 3, 20_480],
    [20_480, 3, 20_480],
    [20_481, 4, 20_992],
    [0, 4, 0],
    [61_440, 4, 62_464],
    [99_999, 4, 99_999],
  ])('seeks from %i (whence %i) to %i', (offset, whence, expected) => {
    const { error, body } = bench.call(Op.LSEEK, bench.nid('sparse'), u64(0, offset), u32(whence, 0));
    expect(error).toBe(0);
    expect(Number(body.readBigUInt64LE(0))).toBe(expected);
  });

  it('seeks no further than there is', () => {
    const seek = (path: string, offset: number, whence: number) =>
      bench.call(Op.LSEEK, bench.nid(path), u64(0, offset), u32(whence, 0));
    expect(seek('sparse', 70_000, 3).error).toBe(6); // ENXIO: nothing but hole
    expect(seek('sparse', 100_000, 4).error).toBe(6);
    expect(seek('data', 5, 4).body.readBigUInt64LE(0)).toBe(10_000n); // the end is a hole
    expect(seek('data', 5, 0).error).toBe(22);
  });

  it('tells the size of the file system', () => {
    const { body } = bench.call(Op.STATFS, 1);
    expect(body.length).toBe(80);
    expect(body.readUInt32LE(40)).toBe(4096); // bsize
    expect(body.readUInt32LE(44)).toBe(255); // namelen
    expect(Number(body.readBigUInt64LE(8))).toBe(0); // bfree
    expect(Number(body.readBigUInt64LE(24))).toBe(6); // files
  });

  it('passes an INTERRUPT on with the request it is about', () => {
    expect(bench.raw(message(Op.INTERRUPT, 0, u64(1234)))).toBe(Outcome.interrupt);
    expect(bench.dispatcher.interrupted).toBe(1234n);
  });

  it('answers nothing to FORGET, and refuses writes, opens and what it does not know', () => {
    expect(bench.raw(message(Op.FORGET, 40, u64(1)))).toBe(Outcome.none);
    expect(bench.raw(message(Op.BATCH_FORGET, 0, u32(1, 0), u64(40, 1)))).toBe(Outcome.none);
    for (const op of [Op.OPEN, Op.OPENDIR, Op.FLUSH, Op.FSYNC, 52, 9999]) expect(bench.call(op, 1).error).toBe(38);
    for (const op of [Op.SETATTR, Op.UNLINK, Op.WRITE, Op.MKDIR, Op.CREATE, Op.SETXATTR, Op.FALLOCATE, Op.TMPFILE]) {
      expect(bench.call(op, 1).error).toBe(30);
    }
    expect(bench.call(Op.ACCESS, 1, u32(4, 0)).error).toBe(0);
    expect(bench.call(Op.ACCESS, 1, u32(2, 0)).error).toBe(30);
    expect(bench.call(Op.DESTROY, 0).error).toBe(0);
  });

  it('survives every request cut short, and lengths that lie', () => {
    const requests = [
      message(Op.LOOKUP, 1, name('hello')),
      message(Op.READ, bench.nid('data'), readIn(0, 100)),
      message(Op.READDIRPLUS, 1, readIn(0, 4096)),
      message(Op.GETXATTR, bench.nid('hello'), u32(9, 0), name('user.k')),
      message(Op.LSEEK, bench.nid('data'), u64(0, 0), u32(3, 0)),
      message(Op.INIT, 0, u32(7, 45, 0, 0)),
      message(Op.INTERRUPT, 0, u64(1)),
    ];
    for (const request of requests) {
      for (let length = 0; length < request.length; length++) {
        const cut = Buffer.from(request.subarray(0, length));
        expect((bench.raw(cut) as Buffer).readInt32LE(4)).toBe(-22);
        if (length >= 40) {
          cut.writeUInt32LE(length, 0);
          expect(typeof bench.raw(cut)).not.toBe('undefined');
        }
      }
    }
  });
});
