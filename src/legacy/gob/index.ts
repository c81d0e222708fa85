export { GobReader, gobText } from './reader.js';
export { BuiltIn, GobInterface, GobStruct, type GobType, type GobValue, type StructType } from './types.js';
export { GobWriter, type Schema, type StructSchema, type Writable } from './writer.js';
