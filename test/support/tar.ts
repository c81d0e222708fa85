/** Tar archives, written byte by byte: every type and dialect, and every way to get one wrong. */

export type Bytes = Uint8Array | string;

export function bytes(value: Bytes): Uint8Array {
  return typeof value === 'string' ? Buffer.from(value, 'utf8') : value;
}

export type Dialect = 'v7' | 'ustar' | 'gnu' | 'star' | 'old-star';

/** The header block's own fields. Numbers are octal where they fit, base-256 where not. */
export interface HeaderFields {
  name: Bytes;
  mode?: number;
  uid?: number;
  gid?: number;
  size?: number;
  mtime?: number;
  /** '0' file, '1' hard link, '2' symlink, '3' char, '4' block, '5' directory, '6' fifo … */
  type?: string;
  link?: Bytes;
  prefix?: Bytes;
  major?: number;
  minor?: number;
  dialect?: Dialect;
  /** 'signed' sums bytes as signed chars; a number is written as it is. */
  checksum?: 'signed' | number;
  /** Writes all numbers in base-256. */
  base256?: boolean;
  /** Last word on the block, before the checksum is made. */
  patch?: (block: Uint8Array) => void;
}

function putNumber(block: Uint8Array, at: number, length: number, value: number, base256: boolean): void {
  const octal = value.toString(8);
  if (!base256 && value >= 0 && octal.length < length) {
    block.set(Buffer.from(`${octal.padStart(length - 1, '0')}\0`), at);
    return;
  }
  let rest = BigInt(value);
  for (let i = at + length - 1; i >= at; i--) {
    block[i] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  block[at] = value < 0 ? 0xff : block[at]! | 0x80;
}

export function header(fields: HeaderFields): Uint8Array {
  const block = new Uint8Array(512);
  const { dialect = 'ustar', base256 = false } = fields;
  block.set(bytes(fields.name).subarray(0, 100), 0);
  putNumber(block, 100, 8, fields.mode ?? 0o644, base256);
  putNumber(block, 108, 8, fields.uid ?? 0, base256);
  putNumber(block, 116, 8, fields.gid ?? 0, base256);
  putNumber(block, 124, 12, fields.size ?? 0, base256);
  putNumber(block, 136, 12, fields.mtime ?? 0, base256);
  block.set(Buffer.from(fields.type ?? '0', 'latin1'), 156);
  block.set(bytes(fields.link ?? '').subarray(0, 100), 157);
  if (dialect === 'gnu') block.set(Buffer.from('ustar  \0'), 257);
  else if (dialect === 'ustar' || dialect === 'star') block.set(Buffer.from('ustar\x0000'), 257);
  if (dialect === 'star' || dialect === 'old-star') block.set(Buffer.from('tar\0'), 508);
  if (dialect === 'old-star') {
    block[257] = 0x31;
    putNumber(block, 278, 12, (fields.major ?? 0) * 256 + (fields.minor ?? 0), false);
  } else if (dialect !== 'v7') {
    putNumber(block, 329, 8, fields.major ?? 0, base256);
    putNumber(block, 337, 8, fields.minor ?? 0, base256);
  }
  if (fields.prefix !== undefined) block.set(bytes(fields.prefix).subarray(0, 155), 345);
  fields.patch?.(block);
  block.fill(0x20, 148, 156);
  let sum = 0;
  for (const byte of block) sum += fields.checksum === 'signed' ? (byte << 24) >> 24 : byte;
  if (typeof fields.checksum === 'number') sum = fields.checksum;
  block.set(Buffer.from(`${(sum >>> 0).toString(8).padStart(6, '0')}\0 `), 148);
  return block;
}

/** Zeros up to the next block. */
export function padded(data: Bytes): Uint8Array {
  const content = bytes(data);
  const out = new Uint8Array(Math.ceil(content.length / 512) * 512);
  out.set(content);
  return out;
}

export type PaxValues = Record<string, Bytes | number> | readonly (readonly [string, Bytes | number])[];

function paxPayload(records: PaxValues): Uint8Array {
  const list = Array.isArray(records)
    ? (records as readonly (readonly [string, Bytes | number])[])
    : Object.entries(records);
  return Buffer.concat(
    list.map(([key, value]) => {
      const body = Buffer.concat([
        Buffer.from(` ${key}=`, 'latin1'),
        bytes(typeof value === 'number' ? String(value) : value),
        Buffer.from('\n'),
      ]);
      let length = body.length + 1;
      while (String(length).length + body.length !== length) length = String(length).length + body.length;
      return Buffer.concat([Buffer.from(String(length)), body]);
    }),
  );
}

/** A pax header for the next entry ('x') or for all that follow ('g'). */
export function pax(records: PaxValues, type: 'x' | 'g' | 'X' = 'x'): Uint8Array {
  const payload = paxPayload(records);
  return Buffer.concat([header({ name: 'PaxHeaders/x', type, size: payload.length }), padded(payload)]);
}

/** GNU long name ('L') or long link ('K'). */
export function gnuLong(type: 'L' | 'K', value: Bytes): Uint8Array {
  const payload = Buffer.concat([bytes(value), Buffer.from([0])]);
  return Buffer.concat([
    header({ name: '././@LongLink', type, size: payload.length, dialect: 'gnu' }),
    padded(payload),
  ]);
}

export interface EntryOptions {
  mode?: number;
  uid?: number;
  gid?: number;
  /** A string is a pax time ("-1.5", "1700000000.123456789"). */
  mtime?: number | string;
  xattrs?: Record<string, Bytes>;
  major?: number;
  minor?: number;
}

const TYPES = { file: '0', link: '1', symlink: '2', char: '3', block: '4', dir: '5', fifo: '6' } as const;
/** Unless told otherwise: 2023-11-14, so that a test sees whether an mtime got through. */
export const MTIME = 1_700_000_000;

/** One entry as GNU tar or Go would write it: ustar, with a pax header where ustar is too small. */
export function entry(
  type: keyof typeof TYPES,
  path: Bytes,
  options: EntryOptions & { data?: Bytes; link?: Bytes } = {},
): Uint8Array {
  const records: [string, Bytes | number][] = [];
  const data = bytes(options.data ?? '');
  const name = bytes(path);
  const link = bytes(options.link ?? '');
  const { uid = 0, gid = 0, mtime = MTIME } = options;
  if (name.length > 100 || name.some((byte) => byte >= 0x80)) records.push(['path', name]);
  if (link.length > 100 || link.some((byte) => byte >= 0x80)) records.push(['linkpath', link]);
  if (uid > 0o7777777) records.push(['uid', uid]);
  if (gid > 0o7777777) records.push(['gid', gid]);
  if (typeof mtime === 'string' || mtime < 0) records.push(['mtime', String(mtime)]);
  for (const [key, value] of Object.entries(options.xattrs ?? {})) records.push([`SCHILY.xattr.${key}`, value]);
  const block = header({
    name: name.subarray(0, 100),
    type: TYPES[type],
    mode: options.mode ?? (type === 'dir' ? 0o755 : type === 'symlink' ? 0o777 : 0o644),
    uid: uid > 0o7777777 ? 0 : uid,
    gid: gid > 0o7777777 ? 0 : gid,
    mtime: typeof mtime === 'string' || mtime < 0 ? 0 : mtime,
    size: type === 'file' ? data.length : 0,
    link: link.subarray(0, 100),
    major: options.major ?? 0,
    minor: options.minor ?? 0,
  });
  return Buffer.concat([records.length > 0 ? pax(records) : new Uint8Array(0), block, padded(data)]);
}

export const file = (path: Bytes, data: Bytes = '', options: EntryOptions = {}): Uint8Array =>
  entry('file', path, { ...options, data });
export const dir = (path: Bytes, options: EntryOptions = {}): Uint8Array => entry('dir', path, options);
export const symlink = (path: Bytes, link: Bytes, options: EntryOptions = {}): Uint8Array =>
  entry('symlink', path, { ...options, link });
export const hardLink = (path: Bytes, link: Bytes, options: EntryOptions = {}): Uint8Array =>
  entry('link', path, { ...options, link });
export const char = (path: Bytes, major: number, minor: number, options: EntryOptions = {}): Uint8Array =>
  entry('char', path, { ...options, major, minor });
export const block = (path: Bytes, major: number, minor: number, options: EntryOptions = {}): Uint8Array =>
  entry('block', path, { ...options, major, minor });
export const fifo = (path: Bytes, options: EntryOptions = {}): Uint8Array => entry('fifo', path, options);

/** "a/b" → "a/.wh.b". */
export function whiteout(path: string): Uint8Array {
  const slash = path.lastIndexOf('/') + 1;
  return file(`${path.slice(0, slash)}.wh.${path.slice(slash)}`);
}

/** Hides the contents that lower layers have in a directory; '' is the root. */
export const opaque = (directory: string): Uint8Array =>
  file(directory === '' ? '.wh..wh..opq' : `${directory}/.wh..wh..opq`);

/** Entries, and two blocks of zeros. */
export function tar(...parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Buffer.concat([...parts, new Uint8Array(1024)]));
}

/** A sparse file's segments: [file offset, data]. */
export type Segments = readonly (readonly [number, Bytes])[];

function stored(segments: Segments): Uint8Array {
  return Buffer.concat(segments.map(([, data]) => bytes(data)));
}

/** Old GNU sparse ('S'), with as many extension blocks as it takes. */
export function gnuSparse(path: Bytes, realSize: number, segments: Segments, options: EntryOptions = {}): Uint8Array {
  const pairs = [...segments.map(([offset, data]) => [offset, bytes(data).length] as const), [realSize, 0] as const];
  const data = stored(segments);
  const put = (target: Uint8Array, at: number, list: readonly (readonly [number, number])[]): void => {
    list.forEach(([offset, length], i) => {
      putNumber(target, at + i * 24, 12, offset, false);
      putNumber(target, at + i * 24 + 12, 12, length, false);
    });
  };
  const extensions: Uint8Array[] = [];
  for (let i = 4; i < pairs.length; i += 21) {
    const extension = new Uint8Array(512);
    put(extension, 0, pairs.slice(i, i + 21));
    if (i + 21 < pairs.length) extension[504] = 1;
    extensions.push(extension);
  }
  const first = header({
    name: path,
    type: 'S',
    dialect: 'gnu',
    size: data.length,
    mode: options.mode ?? 0o644,
    mtime: typeof options.mtime === 'number' ? options.mtime : MTIME,
    patch: (block) => {
      put(block, 386, pairs.slice(0, 4));
      if (extensions.length > 0) block[482] = 1;
      putNumber(block, 483, 12, realSize, false);
    },
  });
  return Buffer.concat([first, ...extensions, padded(data)]);
}

/** The three formats of GNU.sparse pax headers. */
export function paxSparse(
  version: '0.0' | '0.1' | '1.0',
  path: string,
  realSize: number,
  segments: Segments,
): Uint8Array {
  const pairs = [...segments.map(([offset, data]) => [offset, bytes(data).length] as const), [realSize, 0] as const];
  const records: [string, Bytes | number][] = [];
  let data = stored(segments);
  if (version === '1.0') {
    const map = padded(`${pairs.length}\n${pairs.map(([offset, length]) => `${offset}\n${length}\n`).join('')}`);
    data = Buffer.concat([map, data]);
    records.push(
      ['GNU.sparse.major', 1],
      ['GNU.sparse.minor', 0],
      ['GNU.sparse.name', path],
      ['GNU.sparse.realsize', realSize],
    );
  } else {
    records.push(['GNU.sparse.size', realSize], ['GNU.sparse.numblocks', pairs.length]);
    if (version === '0.1') records.push(['GNU.sparse.name', path], ['GNU.sparse.map', pairs.flat().join()]);
    else
      for (const [offset, length] of pairs)
        records.push(['GNU.sparse.offset', offset], ['GNU.sparse.numbytes', length]);
  }
  const name = version === '0.0' ? path : `GNUSparseFile.0/${path.slice(-60)}`;
  return Buffer.concat([pax(records), header({ name, size: data.length, mtime: MTIME }), padded(data)]);
}
