/*
 * The types and values of a gob stream, as https://pkg.go.dev/encoding/gob describes them. A stream is a row of messages: a byte
 * count, then either a type definition (negative id, wireType) or a value (its type's id, its encoding).
 */

/** Ids of the types that need no definition (gob's type.go, "basic types" and the bootstrap types of wireType). */
export const BuiltIn = {
  bool: 1,
  int: 2,
  uint: 3,
  float: 4,
  bytes: 5,
  string: 6,
  complex: 7,
  interface: 8,
  wireType: 16,
  arrayType: 17,
  commonType: 18,
  sliceType: 19,
  structType: 20,
  fieldType: 21,
  fieldTypes: 22,
  mapType: 23,
} as const;

/** Ids below this are gob's own. */
export const FIRST_USER_ID = 64;

export type BasicKind = 'bool' | 'int' | 'uint' | 'float' | 'bytes' | 'string' | 'complex' | 'interface';

export interface BasicType {
  readonly kind: BasicKind;
}

/** A type of elements, named by its id: definitions may come in any order, so it is looked up when a value comes. */
export type TypeId = number;

export interface ArrayType {
  readonly kind: 'array';
  readonly name: string;
  readonly element: TypeId;
  readonly length: number;
}

export interface SliceType {
  readonly kind: 'slice';
  readonly name: string;
  readonly element: TypeId;
}

export interface MapType {
  readonly kind: 'map';
  readonly name: string;
  readonly key: TypeId;
  readonly element: TypeId;
}

export interface StructType {
  readonly kind: 'struct';
  readonly name: string;
  readonly fields: readonly { readonly name: string; readonly type: TypeId }[];
}

/** A value that its own Go type has encoded (GobEncoder, BinaryMarshaler, TextMarshaler): a row of bytes here. */
export interface OpaqueType {
  readonly kind: 'opaque';
  readonly name: string;
}

export type GobType = BasicType | ArrayType | SliceType | MapType | StructType | OpaqueType;

/** A struct's fields in the order of its type; undefined: the field was left out, which means its zero. */
export class GobStruct {
  constructor(
    readonly type: StructType,
    readonly values: readonly (GobValue | undefined)[],
  ) {}

  /** The field of this name; undefined when the type has none, or its value is zero. */
  get(name: string): GobValue | undefined {
    const index = this.type.fields.findIndex((field) => field.name === name);
    return index < 0 ? undefined : this.values[index];
  }
}

/** What an interface held: a value of a type that was registered under `name`. */
export class GobInterface {
  constructor(
    readonly name: string,
    readonly value: GobValue,
  ) {}
}

export interface GobComplex {
  readonly real: number;
  readonly imaginary: number;
}

/**
 * A value. Integers are numbers where that is exact, else bigints. Strings are bytes: Go's may hold any. (As keys of a map they are
 * text, so that they can be looked up.) Null: a nil interface.
 */
export type GobValue =
  | boolean
  | number
  | bigint
  | Uint8Array
  | GobComplex
  | GobStruct
  | GobInterface
  | readonly GobValue[]
  | ReadonlyMap<GobValue | string, GobValue>
  | null;
