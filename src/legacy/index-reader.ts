import { FormatError } from '../bytes/index.js';
import { GobReader, GobStruct, type GobValue, gobText, type StructType } from './gob/index.js';
import type { LegacyNode } from './node.js';

const EMPTY = new Uint8Array(0);

/** Where the fields that we know stand in the types of one archive; −1: its program did not know them yet. */
function positions(type: StructType, names: readonly string[]): number[] {
  return names.map((name) => type.fields.findIndex((field) => field.name === name));
}

const NODE_FIELDS = ['NodeType', 'Path', 'Attr', 'Target', 'ContentHash', 'DataPos', 'DataLen', 'Remote'] as const;
const ATTR_FIELDS = ['Ino', 'Size', 'Mtime', 'Mtimensec', 'Mode', 'Nlink', 'Owner', 'Rdev'] as const;

/** Reads the nodes of an index. Types are looked at once each, then fields are taken by position. */
class NodeReader {
  readonly #what: string;
  readonly #known = new Map<StructType, number[]>();
  /** There are three node types, and one string for each is enough. */
  readonly #nodeTypes = new Map<string, string>();
  #index = 0;

  constructor(what: string) {
    this.#what = what;
  }

  #fail(detail: string): never {
    throw new FormatError(this.#what, 0, `node ${this.#index + 1}: ${detail}`);
  }

  #positions(type: StructType, names: readonly string[]): number[] {
    let found = this.#known.get(type);
    if (found === undefined) {
      found = positions(type, names);
      this.#known.set(type, found);
    }
    return found;
  }

  #number(value: GobValue | undefined, field: string, most = Number.MAX_SAFE_INTEGER): number {
    if (value === undefined) return 0;
    if (typeof value === 'number' && value >= 0 && value <= most) return value;
    return this.#fail(`${field} ${typeof value === 'object' ? 'is no number' : String(value)}`);
  }

  #bytes(value: GobValue | undefined, field: string): Uint8Array {
    if (value === undefined) return EMPTY;
    return value instanceof Uint8Array ? value : this.#fail(`${field} is no string`);
  }

  #struct(value: GobValue | undefined, field: string): GobStruct | null {
    if (value === undefined) return null;
    return value instanceof GobStruct ? value : this.#fail(`${field} is no struct`);
  }

  read(value: GobValue, index: number): LegacyNode {
    this.#index = index;
    const node = this.#struct(value, 'it') ?? this.#fail('nothing');
    const at = this.#positions(node.type, NODE_FIELDS);
    const of = (i: number): GobValue | undefined => node.values[at[i]!];
    const attr = this.#struct(of(2), 'Attr');
    const attrAt = attr === null ? [] : this.#positions(attr.type, ATTR_FIELDS);
    const attrOf = (i: number): GobValue | undefined => attr?.values[attrAt[i]!];
    const owner = this.#struct(attrOf(6), 'Owner');
    const ino = attrOf(0) ?? 0;
    if (typeof ino !== 'number' && typeof ino !== 'bigint') this.#fail('Ino is no number');
    return {
      nodeType: this.#nodeType(of(0)),
      path: this.#bytes(of(1), 'Path'),
      ino: ino as number | bigint,
      size: this.#number(attrOf(1), 'Size'),
      mtime: this.#time(attrOf(2)),
      mtimeNsec: this.#number(attrOf(3), 'Mtimensec', 999_999_999),
      mode: this.#number(attrOf(4), 'Mode', 0xffff_ffff),
      nlink: this.#number(attrOf(5), 'Nlink', 0xffff_ffff),
      uid: this.#number(owner?.get('Uid'), 'Uid', 0xffff_ffff),
      gid: this.#number(owner?.get('Gid'), 'Gid', 0xffff_ffff),
      rdev: this.#number(attrOf(7), 'Rdev', 0xffff_ffff),
      target: this.#bytes(of(3), 'Target'),
      contentHash: this.#bytes(of(4), 'ContentHash'),
      dataPos: this.#number(of(5), 'DataPos'),
      dataLen: this.#number(of(6), 'DataLen'),
      remote: this.#remote(of(7)),
    };
  }

  #nodeType(value: GobValue | undefined): string {
    const text = gobText(value);
    const known = this.#nodeTypes.get(text);
    if (known !== undefined) return known;
    if (text !== 'dir' && text !== 'file' && text !== 'symlink') {
      this.#fail(`type ${JSON.stringify(text.slice(0, 40))}: "dir", "file" or "symlink" expected`);
    }
    this.#nodeTypes.set(text, text);
    return text;
  }

  /** uint64 in Go, also of times before 1970. */
  #time(value: GobValue | undefined): number {
    if (value === undefined) return 0;
    if (typeof value === 'number') return value;
    const signed = typeof value === 'bigint' ? Number(BigInt.asIntN(64, value)) : Number.NaN;
    return Number.isSafeInteger(signed) ? signed : this.#fail(`Mtime ${String(value)}`);
  }

  #remote(value: GobValue | undefined): LegacyNode['remote'] {
    const remote = this.#struct(value, 'Remote');
    if (remote === null) return null;
    return {
      layer: gobText(remote.get('LayerDigest')),
      offset: this.#number(remote.get('UOffset'), 'UOffset'),
      length: this.#number(remote.get('ULength'), 'ULength'),
    };
  }
}

/** Each node of an index, in the order of the index. Byte fields are views of `bytes`. @throws FormatError */
export function readIndex(bytes: Uint8Array, what: string, visit: (node: LegacyNode) => void): number {
  const reader = new NodeReader(what);
  return new GobReader(bytes, what).forEach((value, index) => {
    visit(reader.read(value, index));
  });
}
