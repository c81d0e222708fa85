import { FormatError } from '../bytes/index.js';
import { XATTR_ENTRY_SIZE, XATTR_HEADER_SIZE, XATTR_PREFIXES } from './format.js';
import type { InodeView } from './inode.js';

const PREFIX_BYTES: readonly (Uint8Array | undefined)[] = (() => {
  const table: (Uint8Array | undefined)[] = [];
  for (const { index, prefix } of XATTR_PREFIXES) table[index] = Buffer.from(prefix, 'latin1');
  return table;
})();
const ACL_ACCESS = 2;
const ACL_DEFAULT = 3;

/** Finds extended attributes: inline after the inode, or in the shared area. */
export class XattrReader {
  readonly hasXattrs: boolean;
  readonly hasPosixAcl: boolean;
  readonly #image: Uint8Array;
  readonly #view: DataView;
  /** Byte offset of the shared area; 0 when there is none. */
  readonly #shared: number;

  constructor(image: Uint8Array, view: DataView, shared: number) {
    this.#image = image;
    this.#view = view;
    this.#shared = shared;
    let any = false;
    let acl = false;
    // The shared area is the last part of our images; a zero name index ends it.
    if (shared > 0) {
      for (let at = shared; at + XATTR_ENTRY_SIZE <= image.length && image[at + 1] !== 0; ) {
        any = true;
        if (image[at + 1] === ACL_ACCESS || image[at + 1] === ACL_DEFAULT) acl = true;
        at += this.#entrySize(at, image.length);
      }
    }
    this.hasXattrs = any;
    this.hasPosixAcl = acl;
  }

  #entrySize(at: number, limit: number): number {
    if (at + XATTR_ENTRY_SIZE > limit) throw new FormatError('EROFS xattr', at, 'entry is outside its area');
    const size = XATTR_ENTRY_SIZE + this.#image[at]! + this.#view.getUint16(at + 2, true);
    if (at + size > limit) throw new FormatError('EROFS xattr', at, `entry of ${size} bytes is outside its area`);
    return (size + 3) & ~3;
  }

  /** Calls `visit` with the image offset of each entry until it returns true. */
  #each(inode: InodeView, visit: (at: number) => boolean): void {
    if (inode.xattrLength === 0) return;
    const end = inode.xattrStart + inode.xattrLength;
    const sharedCount = this.#image[inode.xattrStart + 4]!;
    let at = inode.xattrStart + XATTR_HEADER_SIZE;
    if (at + sharedCount * 4 > end)
      throw new FormatError('EROFS xattr', inode.xattrStart, `${sharedCount} shared ids do not fit`);
    for (let i = 0; i < sharedCount; i++, at += 4) {
      const entry = this.#shared + this.#view.getUint32(at, true) * 4;
      this.#entrySize(entry, this.#image.length);
      if (visit(entry)) return;
    }
    while (at + XATTR_ENTRY_SIZE <= end) {
      const size = this.#entrySize(at, end);
      if (visit(at)) return;
      at += size;
    }
  }

  get(inode: InodeView, name: Uint8Array, start: number, end: number): Uint8Array | null {
    let found: Uint8Array | null = null;
    this.#each(inode, (at) => {
      const image = this.#image;
      const nameLength = image[at]!;
      const prefix = PREFIX_BYTES[image[at + 1]!];
      if (prefix === undefined || prefix.length + nameLength !== end - start) return false;
      for (let i = 0; i < prefix.length; i++) if (name[start + i] !== prefix[i]) return false;
      const from = at + XATTR_ENTRY_SIZE;
      for (let i = 0; i < nameLength; i++) if (name[start + prefix.length + i] !== image[from + i]) return false;
      const value = from + nameLength;
      found = image.subarray(value, value + this.#view.getUint16(at + 2, true));
      return true;
    });
    return found;
  }

  each(inode: InodeView, visit: (name: Uint8Array, value: Uint8Array) => void): void {
    this.#each(inode, (at) => {
      const prefix = PREFIX_BYTES[this.#image[at + 1]!];
      if (prefix === undefined) throw new FormatError('EROFS xattr', at, `name index ${this.#image[at + 1]}`);
      const rest = at + XATTR_ENTRY_SIZE;
      const length = this.#image[at]!;
      const name = new Uint8Array(prefix.length + length);
      name.set(prefix);
      name.set(this.#image.subarray(rest, rest + length), prefix.length);
      const value = rest + length;
      visit(name, this.#image.subarray(value, value + this.#view.getUint16(at + 2, true)));
      return false;
    });
  }

  list(inode: InodeView): Uint8Array {
    const parts: Uint8Array[] = [];
    let size = 0;
    this.#each(inode, (at) => {
      const prefix = PREFIX_BYTES[this.#image[at + 1]!];
      if (prefix === undefined) return false;
      const from = at + XATTR_ENTRY_SIZE;
      const name = this.#image.subarray(from, from + this.#image[at]!);
      // A reader of the list would take it for two names.
      if (name.includes(0)) throw new FormatError('EROFS xattr', at, 'a name contains a NUL');
      parts.push(prefix, name);
      size += prefix.length + name.length + 1;
      return false;
    });
    const out = new Uint8Array(size);
    for (let i = 0, at = 0; i < parts.length; i += 2, at++) {
      out.set(parts[i]!, at);
      at += parts[i]!.length;
      out.set(parts[i + 1]!, at);
      at += parts[i + 1]!.length;
    }
    return out;
  }
}
