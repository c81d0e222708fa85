import { GobCursor } from './cursor.js';
import {
  BuiltIn,
  FIRST_USER_ID,
  GobInterface,
  GobStruct,
  type GobType,
  type GobValue,
  type StructType,
  type TypeId,
} from './types.js';

/** Values within values: no honest type is as deep, and a type may name itself. The reader recurses, so it must stop before the stack does. */
const MAX_DEPTH = 100;
/**
 * Slots of structs for each byte of input. A struct of a thousand fields takes one byte when all of them are zero: a few bytes
 * must not make a reader allocate gigabytes. A node of the Go program's index, 26 slots in three structs, takes 40 bytes at the very least.
 */
const MAX_SLOTS_PER_BYTE = 8;
/** What any input may have: so that small ones, with their type definitions, need not be counted. */
const FREE_SLOTS = 65_536;

const struct = (name: string, ...fields: [name: string, type: TypeId][]): StructType => ({
  kind: 'struct',
  name,
  fields: fields.map(([field, type]) => ({ name: field, type })),
});

const COMMON: [string, TypeId] = ['CommonType', BuiltIn.commonType];
/** The type that carries an opaque type's name: a struct of one CommonType. Its id is never on the wire. */
const OPAQUE_TYPE = -1;

/** What every reader knows. wireType and its parts are structs like others (gob's type.go). */
const KNOWN = new Map<TypeId, GobType>([
  [BuiltIn.bool, { kind: 'bool' }],
  [BuiltIn.int, { kind: 'int' }],
  [BuiltIn.uint, { kind: 'uint' }],
  [BuiltIn.float, { kind: 'float' }],
  [BuiltIn.bytes, { kind: 'bytes' }],
  [BuiltIn.string, { kind: 'string' }],
  [BuiltIn.complex, { kind: 'complex' }],
  [BuiltIn.interface, { kind: 'interface' }],
  [
    BuiltIn.wireType,
    struct(
      'wireType',
      ['ArrayT', BuiltIn.arrayType],
      ['SliceT', BuiltIn.sliceType],
      ['StructT', BuiltIn.structType],
      ['MapT', BuiltIn.mapType],
      ['GobEncoderT', OPAQUE_TYPE],
      ['BinaryMarshalerT', OPAQUE_TYPE],
      ['TextMarshalerT', OPAQUE_TYPE],
    ),
  ],
  [BuiltIn.arrayType, struct('arrayType', COMMON, ['Elem', BuiltIn.int], ['Len', BuiltIn.int])],
  [BuiltIn.commonType, struct('CommonType', ['Name', BuiltIn.string], ['Id', BuiltIn.int])],
  [BuiltIn.sliceType, struct('sliceType', COMMON, ['Elem', BuiltIn.int])],
  [BuiltIn.structType, struct('structType', COMMON, ['Field', BuiltIn.fieldTypes])],
  [BuiltIn.fieldType, struct('fieldType', ['Name', BuiltIn.string], ['Id', BuiltIn.int])],
  [BuiltIn.fieldTypes, { kind: 'slice', name: '[]fieldType', element: BuiltIn.fieldType }],
  [BuiltIn.mapType, struct('mapType', COMMON, ['Key', BuiltIn.int], ['Elem', BuiltIn.int])],
  [OPAQUE_TYPE, struct('gobEncoderType', COMMON)],
]);

/** Text of names, for errors and for finding fields. */
export function gobText(value: GobValue | undefined): string {
  return value instanceof Uint8Array ? Buffer.from(value.buffer, value.byteOffset, value.length).toString('utf8') : '';
}

/**
 * Reads a gob stream, which may be hostile: the work and the memory are bounded by its length. Values are read by the types that
 * the stream defines; the caller looks for the fields that it knows by name.
 */
export class GobReader {
  readonly #cursor: GobCursor;
  readonly #types = new Map(KNOWN);
  readonly #total: number;
  #slots = 0;
  #depth = 0;

  /** @param what names the stream in errors, whose offsets count from its start */
  constructor(bytes: Uint8Array, what: string) {
    this.#cursor = new GobCursor(bytes, what);
    this.#total = bytes.length;
  }

  /** The type of an id, as far as the stream has defined it. */
  type(id: TypeId): GobType | undefined {
    return this.#types.get(id);
  }

  /** The next value; undefined at the end of the stream. @throws FormatError */
  next(): GobValue | undefined {
    return this.#value((type) => this.#single(type));
  }

  /**
   * The next value, which must be a slice: each of its elements to `visit`, so that a million of them are never there at once.
   * @returns how many there were
   */
  forEach(visit: (value: GobValue, index: number) => void): number {
    const count = this.#value((type) => {
      if (type.kind !== 'slice') return this.#cursor.fail(`a slice expected, found a ${type.kind}`);
      this.#zeroDelta();
      const length = this.#count('elements');
      const element = this.#lookup(type.element);
      for (let i = 0; i < length; i++) visit(this.#read(element), i);
      return length;
    });
    return count === undefined ? this.#cursor.fail('a value expected, but the stream ends') : (count as number);
  }

  /** Reads messages up to and with the next value. */
  #value(read: (type: GobType) => GobValue): GobValue | undefined {
    const cursor = this.#cursor;
    for (;;) {
      if (cursor.offset === this.#total) return undefined;
      this.#nextMessage();
      const id = this.#id();
      if (id < 0) {
        this.#define(-id);
        if (cursor.left > 0) cursor.fail(`${cursor.left} bytes after a type definition`);
        continue;
      }
      const value = read(this.#lookup(id));
      if (cursor.left > 0) cursor.fail(`${cursor.left} bytes after the value`);
      return value;
    }
  }

  #nextMessage(): void {
    const cursor = this.#cursor;
    cursor.end = this.#total;
    const start = cursor.offset;
    const length = cursor.size('length of a message');
    if (length > cursor.left) cursor.fail(`a message of ${length} bytes, but ${cursor.left} are left`, start);
    cursor.end = cursor.offset + length;
  }

  #id(): TypeId {
    const start = this.#cursor.offset;
    const id = this.#cursor.int();
    return typeof id === 'number' ? id : this.#cursor.fail(`type id ${id}`, start);
  }

  #lookup(id: TypeId): GobType {
    return this.#types.get(id) ?? this.#cursor.fail(`type ${id} is not defined`);
  }

  /** A type definition: the wireType is read as a value, since it is one. */
  #define(id: TypeId): void {
    const cursor = this.#cursor;
    const start = cursor.offset;
    if (id < FIRST_USER_ID || this.#types.has(id)) cursor.fail(`type ${id} is defined already`, start);
    const wire = this.#read(this.#lookup(BuiltIn.wireType)) as GobStruct;
    const given = wire.values.flatMap((value) => (value === undefined ? [] : [value as GobStruct]));
    if (given.length !== 1) cursor.fail(`type ${id} is defined as ${given.length} kinds of type, one expected`, start);
    const definition = given[0]!;
    this.#types.set(id, this.#typeOf(definition, wire.values.indexOf(definition), start));
  }

  #typeOf(definition: GobStruct, kind: number, start: number): GobType {
    const common = definition.get('CommonType');
    const name = common instanceof GobStruct ? gobText(common.get('Name')) : '';
    const idOf = (of: GobStruct, field: string): TypeId => {
      const id = of.get(field) ?? 0;
      return typeof id === 'number' ? id : this.#cursor.fail(`type id ${String(id)}`, start);
    };
    switch (kind) {
      case 0: {
        const length = definition.get('Len') ?? 0;
        if (typeof length !== 'number' || length < 0) return this.#cursor.fail(`an array of ${String(length)}`, start);
        return { kind: 'array', name, element: idOf(definition, 'Elem'), length };
      }
      case 1:
        return { kind: 'slice', name, element: idOf(definition, 'Elem') };
      case 2: {
        const fields = (definition.get('Field') ?? []) as readonly GobStruct[];
        return {
          kind: 'struct',
          name,
          fields: fields.map((field) => ({ name: gobText(field.get('Name')), type: idOf(field, 'Id') })),
        };
      }
      case 3:
        return { kind: 'map', name, key: idOf(definition, 'Key'), element: idOf(definition, 'Elem') };
      default:
        return { kind: 'opaque', name };
    }
  }

  /** A value that is a message of its own: what is no struct has a zero in front, as if it were a struct's only field. */
  #single(type: GobType): GobValue {
    if (type.kind !== 'struct') this.#zeroDelta();
    return this.#read(type);
  }

  #zeroDelta(): void {
    const start = this.#cursor.offset;
    const delta = this.#cursor.uint();
    if (delta !== 0) this.#cursor.fail(`field step ${delta} before a value that is no struct, 0 expected`, start);
  }

  /** A count of things that each take a byte at least. */
  #count(of: string): number {
    const cursor = this.#cursor;
    const start = cursor.offset;
    const count = cursor.size(`number of ${of}`);
    if (count > cursor.left) cursor.fail(`${count} ${of}, but ${cursor.left} bytes are left`, start);
    return count;
  }

  #read(type: GobType): GobValue {
    const cursor = this.#cursor;
    switch (type.kind) {
      case 'bool': {
        const start = cursor.offset;
        const value = cursor.uint();
        return value === 0 || value === 1 ? value === 1 : cursor.fail(`boolean ${value}`, start);
      }
      case 'int':
        return cursor.int();
      case 'uint':
        return cursor.uint();
      case 'float':
        return cursor.float();
      case 'string':
      case 'bytes':
      case 'opaque':
        return cursor.run(type.kind);
      case 'complex':
        return { real: cursor.float(), imaginary: cursor.float() };
      default: {
        if (++this.#depth > MAX_DEPTH) cursor.fail(`values nested deeper than ${MAX_DEPTH}`);
        const value = this.#composite(type);
        this.#depth--;
        return value;
      }
    }
  }

  #composite(type: Exclude<GobType, { kind: 'bool' | 'opaque' }> | { kind: 'interface' }): GobValue {
    switch (type.kind) {
      case 'struct':
        return this.#struct(type);
      case 'array':
      case 'slice': {
        const start = this.#cursor.offset;
        const count = this.#count('elements');
        if (type.kind === 'array' && count !== type.length) {
          this.#cursor.fail(`${count} elements of an array of ${type.length}`, start);
        }
        const element = this.#lookup(type.element);
        const values: GobValue[] = [];
        for (let i = 0; i < count; i++) values.push(this.#read(element));
        return values;
      }
      case 'map': {
        const count = this.#count('pairs');
        const [key, element] = [this.#lookup(type.key), this.#lookup(type.element)];
        const map = new Map<GobValue | string, GobValue>();
        for (let i = 0; i < count; i++) {
          const at = this.#read(key);
          map.set(at instanceof Uint8Array ? gobText(at) : at, this.#read(element));
        }
        return map;
      }
      default:
        return this.#interface();
    }
  }

  /** Steps from field to field, 0 at the end. What is left out is zero. */
  #struct(type: StructType): GobStruct {
    const cursor = this.#cursor;
    const { fields } = type;
    this.#slots += fields.length;
    if (this.#slots > FREE_SLOTS + MAX_SLOTS_PER_BYTE * this.#total) {
      cursor.fail(`structs of ${this.#slots} fields in a stream of ${this.#total} bytes`);
    }
    const values = new Array<GobValue | undefined>(fields.length).fill(undefined);
    for (let index = -1; ; ) {
      const start = cursor.offset;
      const step = cursor.uint();
      if (step === 0) return new GobStruct(type, values);
      index += Number(step);
      const field = fields[index];
      if (field === undefined) return cursor.fail(`field ${index} of ${type.name}, which has ${fields.length}`, start);
      const fieldType = this.#types.get(field.type);
      if (fieldType === undefined) {
        return cursor.fail(`field ${field.name} of ${type.name} has type ${field.type}, which is not defined`, start);
      }
      values[index] = this.#read(fieldType);
    }
  }

  /**
   * Name, type definitions if need be, the concrete type's id, a byte count, the value; an empty name alone is nil. Go's encoder
   * sends a definition as soon as it finds that it must, in the middle of the value, which then goes on in the next message.
   */
  #interface(): GobValue {
    const cursor = this.#cursor;
    const name = gobText(cursor.run('the name of a concrete type'));
    if (name === '') return null;
    let id = this.#id();
    while (id < 0) {
      this.#define(-id);
      if (cursor.left === 0) this.#nextMessage();
      else cursor.uint(); // the byte count of what follows
      id = this.#id();
    }
    // The value's byte count tells how to skip it. A definition within it cuts the value in two, each with a count of its own.
    cursor.size('length of an interface value');
    return new GobInterface(name, this.#single(this.#lookup(id)));
  }
}
