import { createHash } from 'node:crypto';
import type { LayerIndex } from '../bytes/index.js';
import { ClipError, FormatError } from '../bytes/index.js';
import { EntryColumns, type EntryFields } from '../tar/index.js';
import type { Block } from './blocks.js';
import { S_IFMT, S_IFREG } from './format.js';
import { readIndex } from './index-reader.js';
import { statMode } from './mode.js';
import type { LegacyNode } from './node.js';

/** An index as the entries of layers, whose "tars" are the data that its files point into. */
export interface LegacyEntries {
  /** One for each layer. What has no content is in the first. */
  readonly layers: readonly EntryColumns[];
  /** The content of local and S3 archives. */
  readonly blocks: readonly Block[];
  /** The content hash of an entry of the first layer, in hex; empty where the index claims none. */
  readonly hashes: readonly string[];
  /** The end of the last byte that a file needs of each layer. */
  readonly ends: readonly number[];
}

const EMPTY = new Uint8Array(0);
const HASH_LENGTH = 64;

/** @param layerOf index of an OCI layer by digest; null for archives that hold their data themselves */
export function readEntries(
  index: Uint8Array,
  what: string,
  layerOf: ReadonlyMap<string, number> | null,
): LegacyEntries {
  const builder = new EntryBuilder(what, layerOf);
  readIndex(index, what, (node) => builder.add(node));
  return builder.finish();
}

/** Whether two indexes name the same content at the same places: byte for byte, or by what their nodes say. */
export function sameData(index: Uint8Array, other: Uint8Array): boolean {
  if (Buffer.compare(index, other) === 0) return true;
  const digestOf = (bytes: Uint8Array): Buffer => {
    const hash = createHash('sha256');
    readIndex(bytes, 'index', ({ path, dataPos, dataLen }) => {
      if (dataLen > 0) hash.update(path).update(`\0${dataPos}\0${dataLen}\0`);
    });
    return hash.digest();
  };
  try {
    return digestOf(index).equals(digestOf(other));
  } catch (error) {
    if (error instanceof FormatError) return false;
    throw error;
  }
}

class EntryBuilder {
  readonly #what: string;
  readonly #layerOf: ReadonlyMap<string, number> | null;
  readonly #layers: EntryColumns[];
  readonly #ends: number[];
  readonly #blocks: Block[] = [];
  readonly #hashes: string[] = [];
  /** Path of the first name of each inode that may have several. */
  readonly #inodes = new Map<string, Uint8Array>();

  constructor(what: string, layerOf: ReadonlyMap<string, number> | null) {
    this.#what = what;
    this.#layerOf = layerOf;
    const count = Math.max(1, layerOf?.size ?? 1);
    this.#layers = Array.from({ length: count }, () => new EntryColumns());
    this.#ends = new Array<number>(count).fill(0);
  }

  add(node: LegacyNode): void {
    const mode = statMode(node.nodeType, node.mode);
    const regular = (mode & S_IFMT) === S_IFREG;
    const data = regular ? this.#dataOf(node) : null;
    const layer = data?.layer ?? 0;
    const size = regular ? this.#sizeOf(node, data?.length ?? 0) : 0;
    const entry: EntryFields = {
      mode,
      uid: node.uid,
      gid: node.gid,
      mtime: node.mtime,
      mtimeNsec: node.mtimeNsec,
      size,
      rdev: regular ? 0 : node.rdev,
      dataOffset: data?.offset ?? 0,
      path: node.path,
      link: node.nodeType === 'symlink' ? node.target : EMPTY,
      xattrs: null,
      // What the size promises beyond the content reads as zeros, as from the Go program.
      extents: regular && size > (data?.length ?? 0) ? (data === null ? [] : [0, data.length]) : null,
    };
    const first = regular ? this.#firstName(node, entry, layer) : undefined;
    const index = this.#layers[layer]!.add(
      first === undefined ? entry : { ...entry, mode: 0, size: 0, dataOffset: 0, link: first, extents: null },
    );
    const hash = hexOf(node.contentHash);
    if (layer === 0) this.#hashes[index] = first === undefined && regular ? hash : '';
    if (data === null || first !== undefined) return;
    const needed = Math.min(data.length, size);
    this.#ends[layer] = Math.max(this.#ends[layer]!, data.offset + needed);
    if (this.#layerOf === null) {
      this.#blocks.push({ start: data.offset, length: data.length, hash });
    }
  }

  finish(): LegacyEntries {
    return { layers: this.#layers, blocks: this.#blocks, hashes: this.#hashes, ends: this.#ends };
  }

  #fail(node: LegacyNode, detail: string): never {
    throw new FormatError(this.#what, 0, `${Buffer.from(node.path).toString('utf8')}: ${detail}`);
  }

  #dataOf(node: LegacyNode): { layer: LayerIndex; offset: number; length: number } | null {
    if (this.#layerOf === null) {
      return node.dataLen === 0 ? null : { layer: 0, offset: node.dataPos, length: node.dataLen };
    }
    const { remote } = node;
    if (remote === null || remote.length === 0) return null;
    const layer = this.#layerOf.get(remote.layer);
    if (layer === undefined) return this.#fail(node, `layer ${remote.layer.slice(0, 100)} is none of the image's`);
    return { layer, offset: remote.offset, length: remote.length };
  }

  /** Attributes without a size are those of a program that did not know them. */
  #sizeOf(node: LegacyNode, length: number): number {
    return node.size === 0 ? length : node.size;
  }

  /**
   * The path of the inode's first name, if this is another one. Until 2024 hard links share their number, and each has a copy of
   * the content: they are one file if nothing else tells them apart. The number alone may be of two file systems.
   */
  #firstName(node: LegacyNode, entry: EntryFields, layer: LayerIndex): Uint8Array | undefined {
    // OCI archives say 1 link of each name, but all point to the same place.
    if (node.ino === 0 || (node.nlink < 2 && this.#layerOf === null)) return undefined;
    const place = this.#layerOf === null ? node.nlink : entry.dataOffset;
    const { mode, uid, gid, mtime, mtimeNsec, size } = entry;
    const hash = Buffer.from(node.contentHash).toString('latin1');
    const key = [node.ino, layer, place, mode, uid, gid, mtime, mtimeNsec, size, hash].join();
    const first = this.#inodes.get(key);
    if (first === undefined) this.#inodes.set(key, node.path);
    return first;
  }
}

/** A hash as text; empty when it is none. */
function hexOf(bytes: Uint8Array): string {
  if (bytes.length !== HASH_LENGTH) return '';
  for (let i = 0; i < HASH_LENGTH; i++) {
    const digit = bytes[i]!;
    const isHex = (digit >= 0x30 && digit <= 0x39) || (digit >= 0x61 && digit <= 0x66);
    if (!isHex) return '';
  }
  return Buffer.from(bytes.buffer, bytes.byteOffset, HASH_LENGTH).toString('latin1');
}

/** What the tree builder refuses, said of this archive. */
export function refusal(error: unknown, what: string): unknown {
  if (!(error instanceof ClipError) || error instanceof FormatError) return error;
  return new ClipError(error.code, `${what}: ${error.message.replace(/^layer \d+, tar entry/, 'entry')}`, {
    cause: error,
    hint: 'the Go program did not write this: take the archive from its source again',
  });
}
