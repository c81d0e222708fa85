import type { LayerIndex, Nid } from '../bytes/index.js';
import {
  offsetOf,
  PF_W,
  PF_X,
  PT_DYNAMIC,
  PT_GNU_RELRO,
  PT_INTERP,
  PT_LOAD,
  programTable,
  type Segment,
  segmentsOf,
  wordAt,
} from '../elf/index.js';
import { LibraryNames } from './library-names.js';
import { programStrings } from './program-strings.js';
import { readingFunctions, symbolNames, usesOfNames } from './symbol-names.js';

/** The parts of a program or library that the dynamic loader reads before it maps anything else (System V gABI, chapters 4 and 5). */
export interface ElfNeeds {
  /** PT_INTERP: the loader, for a program. */
  readonly interpreter: string | null;
  /** DT_NEEDED. */
  readonly needed: readonly string[];
  /** DT_RUNPATH, else DT_RPATH; split, $ORIGIN not yet replaced. */
  readonly searchPath: readonly string[];
  /** PT_LOAD: the mapped segments. */
  readonly segments: readonly ElfSegment[];
  /** Offset and length of each part of the file that the loader goes through when it relocates: its tables, and what they are made read-only after. */
  readonly relocated: readonly number[];
  /** Names of files among the constants of a program, and of a library that loads others: as `programStrings` returns them. */
  readonly strings: string;
  /** The functions of the C library that it calls and that read files: as `readingFunctions` returns them. */
  readonly functions: string;
  /** Offset and length of each part of the file that was read for this, in the order of the reads. */
  readonly parts: readonly number[];
  /** All of these parts were available, so reading the whole file gives the same result. */
  readonly complete: boolean;
}

/** A program or library of the merged tree. */
export interface ElfFile {
  readonly nid: Nid;
  readonly path: string;
  readonly size: number;
  /** Its data is in. */
  readonly layer: LayerIndex;
  readonly needs: ElfNeeds;
}

export interface ElfSegment {
  readonly offset: number;
  readonly fileSize: number;
  readonly writable: boolean;
}

/** A part of the file that is needed next. The answer has at most its length, and is valid until the next part is asked for. */
export interface ElfPart {
  readonly offset: number;
  readonly length: number;
  /** Parts that are asked for later and do not lie behind this one lie before this offset. */
  readonly keep: number;
}

/** Program headers lie here in every file that a linker wrote. */
export const ELF_HEAD_BYTES = 4096;

const [DT_NULL, DT_NEEDED, DT_STRTAB, DT_STRSZ, DT_RPATH, DT_RUNPATH] = [0, 1, 5, 10, 15, 29];
/** Tables of relocations, address and size: DT_RELA, DT_REL, DT_RELR, DT_JMPREL. */
const RELOCATIONS = [
  [7, 8],
  [17, 18],
  [36, 35],
  [23, 2],
] as const;
/** Real files have fewer dynamic entries. A string table that ends behind this is not kept as a whole. */
const MAX_DYNAMIC_BYTES = 64 * 1024;
const MAX_STRINGS = 4 * 1024 * 1024;
/** Of the constants, this much is searched for names: gcc has 640 kB, git 810 kB. */
const MAX_CONSTANTS = 1024 * 1024;
/** Pieces in which a larger first segment is searched. */
const MAX_PIECE = 1024 * 1024;
const MAX_PATH = 4096;

function cString(bytes: Uint8Array, at: number): string {
  const end = bytes.indexOf(0, at);
  return Buffer.from(bytes.subarray(at, Math.min(end === -1 ? bytes.length : end, at + MAX_PATH))).toString('latin1');
}

/** The parts that were asked for, and whether all of them were available. */
interface Asked {
  readonly parts: number[];
  complete: boolean;
}

// The generators below only ask, and leave the work to functions: V8 compiles a generator that does all three times, for 40 ms each.

/** Notes that a part was asked for, and returns it. */
function answered(asked: Asked, part: ElfPart, bytes: Uint8Array): Uint8Array {
  asked.parts.push(part.offset, part.length);
  if (bytes.length < part.length) asked.complete = false;
  return bytes;
}

/** The program headers of a little-endian ELF file of either width; null for any other file and for a malformed one. */
function* programHeaders(asked: Asked): Generator<ElfPart, { segments: Segment[]; wide: boolean } | null, Uint8Array> {
  const first = { offset: 0, length: 64, keep: ELF_HEAD_BYTES };
  const table = programTable(answered(asked, first, yield first));
  if (table === null) return null;
  const length = table.entrySize * table.count;
  const part = { offset: table.offset, length, keep: ELF_HEAD_BYTES };
  const bytes = answered(asked, part, yield part);
  return bytes.length < length ? null : { segments: segmentsOf(bytes, table), wide: table.wide };
}

/**
 * Reads a little-endian ELF file of either width: yields the parts of the file that it needs, and its caller passes them in when it
 * has them. Null for any other file and for a malformed one.
 */
export function* elfNeeds(): Generator<ElfPart, ElfNeeds | null, Uint8Array> {
  const asked: Asked = { parts: [], complete: true };
  const headers = yield* programHeaders(asked);
  if (headers === null) return null;
  const { loaded, segments, keep, interp, dynamic, relro } = layoutOf(headers.segments);
  let interpreter: string | null = null;
  if (interp !== undefined) {
    const part = { offset: interp.offset, length: Math.min(interp.fileSize, MAX_PATH), keep };
    interpreter = cString(answered(asked, part, yield part), 0);
  }
  const libraries = new LibraryNames();
  const told =
    dynamic === undefined ? NOTHING : yield* constants(loaded, dynamic.offset, interpreter !== null, keep, libraries);
  const found = { interpreter, segments, relocated: relro, ...told };
  if (dynamic === undefined) return { ...found, ...NO_NAMES, ...asked };

  const entries = { offset: dynamic.offset, length: Math.min(dynamic.fileSize, MAX_DYNAMIC_BYTES), keep };
  const section = dynamicSection(answered(asked, entries, yield entries), headers.wide);
  found.relocated = [...relro, ...tablesOf(section, loaded)];
  const table = tableOf(section, loaded);
  if (table < 0) return { ...found, ...NO_NAMES, ...asked };
  let names: Uint8Array | null = null;
  if (table + section.size <= MAX_STRINGS) {
    const part = { offset: table, length: section.size, keep: 0 };
    names = answered(asked, part, yield part);
  }
  const nameAt = (at: number): string => (names === null ? libraries.at(table + at) : cString(names, at));
  return { ...found, ...namesOf(section, nameAt), ...asked };
}

interface Layout {
  /** PT_LOAD, and the same as callers see them. */
  readonly loaded: readonly Segment[];
  readonly segments: readonly ElfSegment[];
  /** The end of the first: linkers put the names before the code. */
  readonly keep: number;
  readonly interp: Segment | undefined;
  readonly dynamic: Segment | undefined;
  /** Offset and length of what is read-only once it is relocated. */
  readonly relro: readonly number[];
}

function layoutOf(all: readonly Segment[]): Layout {
  const loaded = all.filter((s) => s.type === PT_LOAD);
  return {
    loaded,
    segments: loaded.map(({ offset, fileSize, flags }) => ({ offset, fileSize, writable: (flags & PF_W) !== 0 })),
    keep: loaded[0] === undefined ? 0 : loaded[0].offset + loaded[0].fileSize,
    interp: all.find((s) => s.type === PT_INTERP),
    dynamic: all.find((s) => s.type === PT_DYNAMIC),
    relro: all.filter((s) => s.type === PT_GNU_RELRO).flatMap(({ offset, fileSize }) => [offset, fileSize]),
  };
}

/** Where the string table of a dynamic section lies in the file; -1 if it is not known. */
function tableOf({ address, size }: DynamicSection, loaded: readonly Segment[]): number {
  return address < 0 || size < 0 ? -1 : offsetOf(address, loaded);
}

/** Offset and length of each table of relocations. */
function tablesOf({ relocations }: DynamicSection, loaded: readonly Segment[]): number[] {
  return relocations.flatMap(({ address, size }) => {
    const offset = size > 0 ? offsetOf(address, loaded) : -1;
    return offset < 0 ? [] : [offset, size];
  });
}

type Names = Pick<ElfNeeds, 'needed' | 'searchPath'>;
const NO_NAMES: Names = { needed: [], searchPath: [] };

function namesOf({ needed, runPath }: DynamicSection, nameAt: (at: number) => string): Names {
  const searchPath = runPath < 0 ? [] : nameAt(runPath).split(':');
  return {
    needed: needed.map(nameAt).filter((name) => name !== ''),
    searchPath: searchPath.filter((part) => part !== ''),
  };
}

/** What the constants and the names of symbols tell. */
interface Told {
  readonly strings: string;
  readonly functions: string;
}
const NOTHING: Told = { strings: '', functions: '' };

/**
 * The names of files among the constants, and functions that read files. Linkers put the names of symbols into the first segment, then the code, then the constants
 * (old ones: all of these into the first), then the dynamic section. Another order gives no names.
 * @param libraries  gets the names in a first segment that is not kept
 */
function* constants(
  loaded: readonly Segment[],
  dynamicOffset: number,
  isProgram: boolean,
  keep: number,
  libraries: LibraryNames,
): Generator<ElfPart, Told, Uint8Array> {
  const first = loaded[0];
  if (first === undefined || keep > dynamicOffset) return NOTHING;
  const head = yield { offset: 0, length: Math.min(keep, MAX_STRINGS), keep };
  if (keep > MAX_STRINGS) {
    libraries.push(head);
    for (let offset = MAX_STRINGS; offset < keep; offset += MAX_PIECE)
      libraries.push(yield { offset, length: Math.min(MAX_PIECE, keep - offset), keep });
  }
  const names = symbolNames(head);
  const functions = readingFunctions(names, isProgram);
  const uses = usesOfNames(names, isProgram);
  if (uses === null) return { strings: '', functions };
  const own = loaded.find((s, i) => i > 0 && (s.flags & (PF_X | PF_W)) === 0);
  if (own === undefined) {
    const separate = (first.flags & PF_X) === 0;
    return { strings: separate ? '' : programStrings(head.subarray(-MAX_CONSTANTS), uses), functions };
  }
  const length = Math.min(own.fileSize, MAX_CONSTANTS);
  if (own.offset < keep || own.offset + length > dynamicOffset) return { strings: '', functions };
  return { strings: programStrings(yield { offset: own.offset, length, keep }, uses), functions };
}

interface DynamicSection {
  /** Of the string table; -1 if the section does not name it. */
  readonly address: number;
  readonly size: number;
  /** Offsets in the string table: DT_RUNPATH or else DT_RPATH (-1: neither), and each DT_NEEDED. */
  readonly runPath: number;
  readonly needed: readonly number[];
  /** Tables of relocations. */
  readonly relocations: readonly { readonly address: number; readonly size: number }[];
}

function dynamicSection(entries: Uint8Array, wide: boolean): DynamicSection {
  const view = new DataView(entries.buffer, entries.byteOffset, entries.length);
  const step = wide ? 16 : 8;
  let [address, size, rpath, runpath] = [-1, -1, -1, -1];
  const needed: number[] = [];
  const tables = new Map<number, number>();
  for (let at = 0; at + step <= entries.length; at += step) {
    const tag = wordAt(view, at, wide);
    if (tag === DT_NULL) break;
    const value = wordAt(view, at + step / 2, wide);
    if (tag === DT_NEEDED) needed.push(value);
    else if (tag === DT_STRTAB && address < 0) address = value;
    else if (tag === DT_STRSZ && size < 0) size = value;
    else if (tag === DT_RPATH && rpath < 0) rpath = value;
    else if (tag === DT_RUNPATH && runpath < 0) runpath = value;
    else tables.set(tag, value);
  }
  const relocations = RELOCATIONS.map(([address, size]) => ({
    address: tables.get(address) ?? -1,
    size: tables.get(size) ?? 0,
  }));
  return { address, size, runPath: runpath < 0 ? rpath : runpath, needed, relocations };
}
