import { ClipError } from '../bytes/index.js';
import { NAME_MAX, XATTR_ENTRY_SIZE, XATTR_HEADER_SIZE, XATTR_PREFIXES, XATTR_VALUE_MAX } from './format.js';
import type { TreeSource } from './tree-source.js';

/** xattr_icount is u16 and counts 4-byte units. */
const BODY_MAX = XATTR_HEADER_SIZE + 0xfffe * 4;
/** The header's count of shared ids is u8. */
const SHARED_MAX = 255;

/**
 * Interns extended attributes: each different one is stored once, in the shared area, and each different set of them once
 * here. A reader can then tell from the shared area alone whether a tree has any xattrs or ACLs.
 */
export class XattrWriter {
  /** Xattrs without a prefix in EROFS, or too long for it. */
  dropped = 0;
  /** By inode: 1 + index of its set. Allocated when the first one comes. */
  #setOf: Uint32Array | null = null;
  readonly #sets: Uint8Array[] = [];
  readonly #setByKey = new Map<string, number>();
  readonly #idByEntry = new Map<string, number>();
  readonly #entries: Uint8Array[] = [];
  #size = 0;

  /** Reads an inode's xattrs; returns the length of the body that will follow the inode. */
  add(tree: TreeSource, inode: number): number {
    const xattrs = tree.xattrs(inode);
    if (xattrs.length === 0) return 0;
    const ids: number[] = [];
    const inline: Uint8Array[] = [];
    for (const { name, value } of xattrs) {
      const entry = encode(name, value);
      if (entry === null) this.dropped++;
      else if (ids.length < SHARED_MAX) ids.push(this.#intern(entry));
      else inline.push(entry);
    }
    if (ids.length === 0) return 0;
    const key = `${ids.join()} ${inline.map((entry) => Buffer.from(entry).toString('latin1')).join('')}`;
    let set = this.#setByKey.get(key);
    if (set === undefined) {
      set = this.#sets.length;
      this.#sets.push(body(ids, inline));
      this.#setByKey.set(key, set);
    }
    this.#setOf ??= new Uint32Array(tree.inodeLimit);
    this.#setOf[inode] = set + 1;
    return this.#sets[set]!.length;
  }

  #intern(entry: Uint8Array): number {
    const key = Buffer.from(entry.buffer, entry.byteOffset, entry.length).toString('latin1');
    let id = this.#idByEntry.get(key);
    if (id === undefined) {
      id = this.#size / 4;
      this.#idByEntry.set(key, id);
      this.#entries.push(entry);
      this.#size += entry.length;
    }
    return id;
  }

  /** The body that follows the inode; empty for one without xattrs. */
  bodyOf(inode: number): Uint8Array | null {
    const set = this.#setOf === null ? 0 : this.#setOf[inode]!;
    return set === 0 ? null : this.#sets[set - 1]!;
  }

  /** Bytes of the shared area. */
  get sharedSize(): number {
    return this.#size;
  }

  writeShared(image: Uint8Array, at: number): void {
    for (const entry of this.#entries) {
      image.set(entry, at);
      at += entry.length;
    }
  }
}

/** One entry, padded to 4; null when EROFS cannot hold it. */
function encode(name: Uint8Array, value: Uint8Array): Uint8Array | null {
  const text = Buffer.from(name.buffer, name.byteOffset, name.length).toString('latin1');
  const found = XATTR_PREFIXES.find(({ prefix, exact }) =>
    exact ? text === prefix : text.startsWith(prefix) && text.length > prefix.length,
  );
  if (found === undefined) return null;
  const rest = name.subarray(found.prefix.length);
  // Linux counts the prefix too (XATTR_NAME_MAX): with one longer name listxattr fails for the whole file.
  if (name.length > NAME_MAX || value.length > XATTR_VALUE_MAX || rest.includes(0)) return null;
  const entry = new Uint8Array((XATTR_ENTRY_SIZE + rest.length + value.length + 3) & ~3);
  entry[0] = rest.length;
  entry[1] = found.index;
  entry[2] = value.length & 0xff;
  entry[3] = value.length >>> 8;
  entry.set(rest, XATTR_ENTRY_SIZE);
  entry.set(value, XATTR_ENTRY_SIZE + rest.length);
  return entry;
}

function body(ids: readonly number[], inline: readonly Uint8Array[]): Uint8Array {
  const size = XATTR_HEADER_SIZE + ids.length * 4 + inline.reduce((sum, entry) => sum + entry.length, 0);
  if (size > BODY_MAX) throw new ClipError('LIMIT', `the xattrs of one file take ${size} bytes, at most ${BODY_MAX}`);
  const out = new Uint8Array(size);
  const view = new DataView(out.buffer);
  out[4] = ids.length;
  let at = XATTR_HEADER_SIZE;
  for (const id of ids) {
    view.setUint32(at, id, true);
    at += 4;
  }
  for (const entry of inline) {
    out.set(entry, at);
    at += entry.length;
  }
  return out;
}
