import { FormatError } from '../bytes/index.js';
import { GLOBAL_MAX } from './format.js';
import { parseCount, printable } from './number.js';

const EQUALS = 0x3d;
const NEWLINE = 0x0a;
const TIME = Buffer.from('time');

/** The keys used besides xattrs. A tree has no place for the others (atime, ctime, uname, comment …). */
const USED_KEYS = new Set(
  ['path', 'linkpath', 'size', 'uid', 'gid', 'mtime'].concat(
    ['major', 'minor', 'name', 'size', 'realsize', 'map'].map((key) => `GNU.sparse.${key}`),
  ),
);

/** Values by key (latin1). An empty value masks the global header's value: the field of the header block counts. */
export class PaxRecords {
  readonly values = new Map<string, Uint8Array>();
  /** GNU.sparse 0.0 repeats the keys GNU.sparse.offset and GNU.sparse.numbytes: their order counts. */
  readonly sparse: number[] = [];
  hasXattrs = false;

  /** For a global header: drops empty values, and checks that the rest is small. */
  settleGlobal(at: number): void {
    this.sparse.length = 0;
    let total = 0;
    for (const [key, value] of this.values) {
      if (value.length === 0) this.values.delete(key);
      else total += key.length + value.length;
    }
    if (total > GLOBAL_MAX)
      throw new FormatError('pax header', at, `a global header with ${total} bytes of values, at most ${GLOBAL_MAX}`);
  }

  /**
   * Parses "LENGTH KEY=VALUE\n" records into this (POSIX.1-2017 pax, "pax Header File").
   * @param at  layer offset of the payload
   */
  parse(payload: Uint8Array, at: number): void {
    const fail = (offset: number, detail: string): never => {
      throw new FormatError('pax header', at + offset, detail);
    };
    let start = 0;
    while (start < payload.length) {
      let length = 0;
      let i = start;
      // Go takes leading zeros. A length beyond the payload is wrong, however far beyond.
      for (; i < payload.length && payload[i]! >= 0x30 && payload[i]! <= 0x39; i++)
        length = Math.min(length * 10 + payload[i]! - 0x30, payload.length + 1);
      if (i === start || payload[i] !== 0x20)
        fail(start, `record starts with ${printable(payload.subarray(start, start + 12))}, expected a length`);
      const end = start + length;
      const key = i + 1;
      if (end > payload.length || end <= key + 1)
        fail(start, `record of ${printable(payload.subarray(start, i))} bytes, ${payload.length - start} left`);
      if (payload[end - 1] !== NEWLINE) fail(end - 1, 'record does not end with a newline');
      let equals = key;
      let nul = false;
      for (; equals < end - 1 && payload[equals] !== EQUALS; equals++) if (payload[equals] === 0) nul = true;
      if (equals === key || equals === end - 1) fail(key, 'record has no key');
      // A reader of C strings would end the name at a NUL, and see another name than this one.
      if (nul) fail(key, 'key contains a NUL');
      // Writers that keep nanoseconds keep them for all three times: of a million files two million records are not used.
      if (!isUnused(payload, key, equals))
        this.#set(latin1(payload.subarray(key, equals)), payload.subarray(equals + 1, end - 1), fail, key);
      start = end;
    }
    if (this.sparse.length % 2 !== 0) fail(0, 'GNU.sparse.offset without GNU.sparse.numbytes');
  }

  #set(key: string, value: Uint8Array, fail: (offset: number, detail: string) => never, at: number): void {
    if ((key === 'path' || key === 'linkpath' || key === 'GNU.sparse.name') && value.includes(0))
      fail(at, `${key} contains a NUL`);
    if (key === 'GNU.sparse.offset' || key === 'GNU.sparse.numbytes') {
      const number = parseCount(latin1(value));
      if (number === null || (this.sparse.length % 2 === 0) !== (key === 'GNU.sparse.offset'))
        fail(at, `${key} is not a number in its place`);
      this.sparse.push(number!);
      return;
    }
    if (key.startsWith('SCHILY.xattr.') || key.startsWith('LIBARCHIVE.xattr.')) this.hasXattrs = true;
    else if (!USED_KEYS.has(key)) return;
    this.values.set(key, value);
  }
}

/** Whether a key is `atime` or `ctime`. */
function isUnused(payload: Uint8Array, start: number, end: number): boolean {
  const first = payload[start]!;
  if (end - start !== 5 || (first !== 0x61 && first !== 0x63)) return false;
  for (let i = 1; i < 5; i++) if (payload[start + i] !== TIME[i - 1]) return false;
  return true;
}

export function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1');
}

/**
 * Extended attributes: SCHILY.xattr.NAME (raw value; star, GNU tar, Go) and LIBARCHIVE.xattr.NAME (name URL-encoded, value
 * base64; bsdtar). bsdtar writes both. Where they differ SCHILY wins, since container engines read that one.
 */
export function collectXattrs(global: PaxRecords, local: PaxRecords): Map<string, Uint8Array> | null {
  if (!global.hasXattrs && !local.hasXattrs) return null;
  const merged = new Map([...global.values, ...local.values]);
  const xattrs = new Map<string, Uint8Array>();
  for (const [key, value] of merged) {
    // POSIX: an empty value "shall delete any … extended header value … of the same name". Go, and with it every engine, does so.
    if (value.length === 0) continue;
    if (key.startsWith('LIBARCHIVE.xattr.')) {
      const name = urlDecode(key.slice('LIBARCHIVE.xattr.'.length));
      if ((merged.get(`SCHILY.xattr.${name}`)?.length ?? 0) === 0)
        xattrs.set(name, new Uint8Array(Buffer.from(latin1(value), 'base64')));
    } else if (key.startsWith('SCHILY.xattr.')) xattrs.set(key.slice('SCHILY.xattr.'.length), value);
  }
  return xattrs;
}

function urlDecode(text: string): string {
  return text.replace(/%([0-9a-fA-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
}
