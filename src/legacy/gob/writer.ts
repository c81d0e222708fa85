import { BuiltIn, FIRST_USER_ID } from './types.js';

/** What is to be written, described by the caller as Go's compiler describes it to gob. */
export type Schema =
  | 'bool'
  | 'int'
  | 'uint'
  | 'float'
  | 'bytes'
  | 'string'
  | { readonly slice: Schema }
  | { readonly map: readonly [key: Schema, element: Schema] }
  | StructSchema;

export interface StructSchema {
  /** Go's name of the type. */
  readonly struct: string;
  readonly fields: readonly (readonly [name: string, type: Schema])[];
}

/**
 * A value by its schema: numbers and bigints, bytes or text for strings, lists, maps, and structs as records by field name. A
 * field that is absent is zero, a struct that is null (a nil pointer) is left out.
 */
export type Writable =
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | WritableList
  | ReadonlyMap<string, Writable>
  | { readonly [field: string]: Writable | undefined }
  | null;

/** An array, or values that are made as they are written. */
export interface WritableList {
  readonly length: number;
  [Symbol.iterator](): Iterator<Writable>;
}

const FLOAT = new DataView(new ArrayBuffer(8));

/** Bytes of a piece of output. An index has megabytes, and one buffer that grows would be there twice while it is copied. */
const PIECE_BYTES = 64 * 1024;
/** A number of 64 bits, and the byte that says how many bytes follow. */
const MAX_NUMBER_BYTES = 9;
/** Twice this is still exact as a number. */
const MAX_EXACT_HALF = Math.floor(Number.MAX_SAFE_INTEGER / 2);
/** A type's definition seldom has more. */
const DEFINITION_BYTES = 1024;

/** A growing row of bytes in gob's encoding of numbers. */
class Output {
  readonly #full: Uint8Array[] = [];
  #fullBytes = 0;
  #piece: Buffer;
  #used = 0;

  constructor(pieceBytes = PIECE_BYTES) {
    this.#piece = Buffer.allocUnsafeSlow(pieceBytes);
  }

  get length(): number {
    return this.#fullBytes + this.#used;
  }

  #room(): void {
    if (this.#used + MAX_NUMBER_BYTES > this.#piece.length) this.#next();
  }

  #next(): void {
    this.#full.push(this.#piece.subarray(0, this.#used));
    this.#fullBytes += this.#used;
    this.#piece = Buffer.allocUnsafeSlow(PIECE_BYTES);
    this.#used = 0;
  }

  uint(value: number | bigint): void {
    this.#room();
    const piece = this.#piece;
    if (value < 128) {
      piece[this.#used++] = Number(value);
      return;
    }
    if (typeof value === 'number') {
      if (!Number.isSafeInteger(value)) throw new RangeError(`${value} is no integer that can be written exactly`);
      let count = 1;
      for (let left = value; left >= 0x100; left = Math.floor(left / 0x100)) count++;
      piece[this.#used] = 0x100 - count;
      for (let i = count, left = value; i > 0; i--, left = Math.floor(left / 0x100))
        piece[this.#used + i] = left % 0x100;
      this.#used += 1 + count;
      return;
    }
    let rest = value;
    let count = 0;
    for (let left = rest; left > 0n; left >>= 8n) count++;
    piece[this.#used] = 0x100 - count;
    for (let i = count; i > 0; i--, rest >>= 8n) piece[this.#used + i] = Number(rest & 0xffn);
    this.#used += 1 + count;
  }

  int(value: number | bigint): void {
    if (typeof value === 'number' && value >= 0 && value <= MAX_EXACT_HALF) {
      this.uint(2 * value);
      return;
    }
    const wide = BigInt(value);
    this.uint(wide < 0n ? (~wide << 1n) | 1n : wide << 1n);
  }

  float(value: number): void {
    FLOAT.setFloat64(0, value, false);
    this.uint(FLOAT.getBigUint64(0, true));
  }

  run(bytes: Uint8Array): void {
    this.uint(bytes.length);
    for (let done = 0; done < bytes.length; ) {
      if (this.#used === this.#piece.length) this.#next();
      const part = bytes.subarray(done, done + this.#piece.length - this.#used);
      this.#piece.set(part, this.#used);
      this.#used += part.length;
      done += part.length;
    }
  }

  /** The length of another output and its bytes, which it gives away. */
  message(other: Output): void {
    this.uint(other.length);
    this.#next();
    for (const piece of other.#pieces()) {
      this.#full.push(piece);
      this.#fullBytes += piece.length;
    }
  }

  #pieces(): Uint8Array[] {
    return [...this.#full, this.#piece.subarray(0, this.#used)];
  }

  finish(): Uint8Array {
    return Buffer.concat(this.#pieces());
  }
}

const BASIC = {
  bool: BuiltIn.bool,
  int: BuiltIn.int,
  uint: BuiltIn.uint,
  float: BuiltIn.float,
  bytes: BuiltIn.bytes,
  string: BuiltIn.string,
} as const;

/** Writes a gob stream that Go decodes into the types which the schemas describe. */
export class GobWriter {
  readonly #out = new Output();
  /** Ids of the schemas that are defined already, by what they say. */
  readonly #ids = new Map<string, number>();
  #next = FIRST_USER_ID;

  /** Adds a value, and before it the definitions of the types that are new in it. */
  write(schema: Schema, value: Writable): this {
    const id = this.#define(schema);
    const message = new Output();
    message.int(id);
    if (typeof schema === 'string' || !('struct' in schema)) message.uint(0);
    this.#encode(message, schema, value);
    this.#out.message(message);
    return this;
  }

  finish(): Uint8Array {
    return this.#out.finish();
  }

  /** The id of a type, defined first if need be, after those of its parts. */
  #define(schema: Schema): number {
    if (typeof schema === 'string') return BASIC[schema];
    const key = JSON.stringify(schema);
    const known = this.#ids.get(key);
    if (known !== undefined) return known;
    const id = this.#next++;
    this.#ids.set(key, id);
    const definition = new Output(DEFINITION_BYTES);
    definition.int(-id);
    const common = (name: string): void => {
      definition.uint(1); // CommonType
      if (name !== '') {
        definition.uint(1);
        definition.run(Buffer.from(name, 'utf8'));
        definition.uint(1);
      } else definition.uint(2);
      definition.int(id);
      definition.uint(0);
    };
    const part = (of: Schema): void => {
      const partId = this.#define(of);
      definition.uint(1);
      definition.int(partId);
    };
    if ('slice' in schema) {
      definition.uint(2); // wireType.SliceT
      common('');
      part(schema.slice);
    } else if ('map' in schema) {
      definition.uint(4); // wireType.MapT
      common('');
      part(schema.map[0]);
      part(schema.map[1]);
    } else {
      definition.uint(3); // wireType.StructT
      common(schema.struct);
      if (schema.fields.length > 0) {
        definition.uint(1);
        definition.uint(schema.fields.length);
        for (const [name, type] of schema.fields) {
          definition.uint(1);
          definition.run(Buffer.from(name, 'utf8'));
          part(type);
          definition.uint(0);
        }
      }
    }
    definition.uint(0); // the end of the SliceT, MapT or StructT
    definition.uint(0); // the end of the wireType
    this.#out.run(definition.finish());
    return id;
  }

  #encode(out: Output, schema: Schema, value: Writable): void {
    switch (schema) {
      case 'bool':
        out.uint(value === true ? 1 : 0);
        return;
      case 'int':
        out.int(value as number | bigint);
        return;
      case 'uint':
        out.uint(value as number | bigint);
        return;
      case 'float':
        out.float(value as number);
        return;
      case 'bytes':
      case 'string':
        out.run(typeof value === 'string' ? Buffer.from(value, 'utf8') : (value as Uint8Array));
        return;
    }
    if ('slice' in schema) {
      const list = value as WritableList;
      out.uint(list.length);
      for (const item of list) this.#encode(out, schema.slice, item);
    } else if ('map' in schema) {
      const map = value as ReadonlyMap<string, Writable>;
      out.uint(map.size);
      for (const [key, item] of map) {
        this.#encode(out, schema.map[0], key);
        this.#encode(out, schema.map[1], item);
      }
    } else {
      let last = -1;
      const record = value as { readonly [field: string]: Writable | undefined };
      for (let index = 0; index < schema.fields.length; index++) {
        const [name, type] = schema.fields[index]!;
        const field = record[name];
        if (field === undefined || isZero(field, type)) continue;
        out.uint(index - last);
        last = index;
        this.#encode(out, type, field);
      }
      out.uint(0);
    }
  }
}

/** What a struct leaves out. A struct within is left out only where it is nil: an empty one is sent, as Go does. */
function isZero(value: Writable, schema: Schema): boolean {
  if (value === null) return true;
  if (typeof schema === 'object') {
    if ('slice' in schema) return (value as WritableList).length === 0;
    return 'map' in schema && (value as ReadonlyMap<string, Writable>).size === 0;
  }
  return (
    value === false ||
    value === 0 ||
    value === 0n ||
    value === '' ||
    (value instanceof Uint8Array && value.length === 0)
  );
}
