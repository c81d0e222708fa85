import type { StructSchema, Writable } from './gob/index.js';

/** A node of the index, as the Go program's ClipNode has it; what an archive leaves out is zero. */
export interface LegacyNode {
  /** See NodeType. */
  readonly nodeType: string;
  /** Absolute, raw bytes. */
  readonly path: Uint8Array;
  readonly ino: number | bigint;
  readonly size: number;
  /** Seconds since 1970; may be negative. */
  readonly mtime: number;
  readonly mtimeNsec: number;
  /** As stored: see statMode(). */
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  readonly rdev: number;
  readonly target: Uint8Array;
  /** Hex, or empty. */
  readonly contentHash: Uint8Array;
  readonly dataPos: number;
  readonly dataLen: number;
  /** Of OCI archives: where in a layer's tar the content lies. */
  readonly remote: { readonly layer: string; readonly offset: number; readonly length: number } | null;
}

const OWNER: StructSchema = {
  struct: 'Owner',
  fields: [
    ['Uid', 'uint'],
    ['Gid', 'uint'],
  ],
};
const ATTR: StructSchema = {
  struct: 'Attr',
  fields: [
    ['Ino', 'uint'],
    ['Size', 'uint'],
    ['Blocks', 'uint'],
    ['Atime', 'uint'],
    ['Mtime', 'uint'],
    ['Ctime', 'uint'],
    ['Atimensec', 'uint'],
    ['Mtimensec', 'uint'],
    ['Ctimensec', 'uint'],
    ['Mode', 'uint'],
    ['Nlink', 'uint'],
    ['Owner', OWNER],
    ['Rdev', 'uint'],
    ['Blksize', 'uint'],
    ['Padding', 'uint'],
  ],
};
const REMOTE: StructSchema = {
  struct: 'RemoteRef',
  fields: [
    ['LayerDigest', 'string'],
    ['UOffset', 'int'],
    ['ULength', 'int'],
  ],
};
/** The types of 2026, of which all readers since 2023 take what they know. Go's own definition has no name for ClipNode: it is a pointer's. */
export const NODE: StructSchema = {
  struct: '',
  fields: [
    ['NodeType', 'string'],
    ['Path', 'string'],
    ['Attr', ATTR],
    ['Target', 'string'],
    ['ContentHash', 'string'],
    ['DataPos', 'int'],
    ['DataLen', 'int'],
    ['Remote', REMOTE],
  ],
};

/** A time before 1970 is stored as Go converts it to uint64: two's complement. */
const unsigned = (seconds: number): number | bigint => (seconds >= 0 ? seconds : BigInt.asUintN(64, BigInt(seconds)));

export function writable(node: LegacyNode): Writable {
  const { uid, gid } = node;
  const seconds = unsigned(node.mtime);
  return {
    NodeType: node.nodeType,
    Path: node.path,
    Attr: {
      Ino: node.ino,
      Size: node.size,
      Blocks: Math.ceil(node.size / 512),
      Atime: seconds,
      Mtime: seconds,
      Ctime: seconds,
      Atimensec: node.mtimeNsec,
      Mtimensec: node.mtimeNsec,
      Ctimensec: node.mtimeNsec,
      Mode: node.mode,
      Nlink: node.nlink,
      Owner: { Uid: uid, Gid: gid },
      Rdev: node.rdev,
    },
    Target: node.target,
    ContentHash: node.contentHash,
    DataPos: node.dataPos,
    DataLen: node.dataLen,
  };
}
