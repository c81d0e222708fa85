import { eachReference } from './code-references.js';
import { dynamicValues, PT_DYNAMIC, PT_LOAD, programTable, segmentsOf } from './headers.js';
import { Places, type Touch } from './places.js';
import { RELA_BYTES, Relocated } from './relocated.js';

/** A part of the file whose bytes are needed next. */
export interface FilePart {
  readonly offset: number;
  readonly length: number;
}

const MAX_DYNAMIC_BYTES = 64 * 1024;
/** Of a table of relocations, as much as references fetch. */
const MAX_TABLE_BYTES = 16 * 1024 * 1024;
/** Relocations that are gone through at a time: some 2 ms of work. */
const PIECE_BYTES = 43_690 * RELA_BYTES;
/** The names of torch's symbols have 5.8 MB. */
const MAX_NAMES_BYTES = 16 * 1024 * 1024;
/** cuBLASLt has 6172 constructors. */
const MAX_CONSTRUCTORS = 16 * 1024;
/** Code that is searched at a time, and of one constructor at the most: nobody says where one ends that no other follows. */
const BLOCK_BYTES = 64 * 1024;
const MAX_BODY_BYTES = 4096;
/** 64 MiB of code: cuBLASLt's 6172 constructors lie in 6 MiB. */
const MAX_BLOCKS = 1024;
const EM_X86_64 = 62;

const [DT_STRTAB, DT_RELA, DT_RELASZ, DT_STRSZ] = [5, 7, 8, 10];
const [DT_INIT_ARRAY, DT_INIT_ARRAYSZ, DT_RELRSZ, DT_RELR] = [25, 27, 35, 36];
const DT_VERSYM = 0x6ffffff0;

/**
 * What loading a program or library of 64 bits touches of its file beside its tables, as far as these tell: the names of symbols, the data that
 * relocations write, the constructors, and, in code for x86-64, what constructors call or take the address of. Hints: a file that is
 * malformed gives none, or wrong ones, but never more than a bounded number.
 * What it is given must not change until it asks for the next part.
 * @param touch  gets offsets in the file, roughly in the order in which they are touched, one for each stretch of 64 KiB
 */
export function* loadTouches(touch: Touch): Generator<FilePart, void, Uint8Array> {
  const table = programTable(yield { offset: 0, length: 64 });
  if (table === null || !table.wide) return;
  const length = table.entrySize * table.count;
  const headers = yield { offset: table.offset, length };
  if (headers.length < length) return;
  const segments = segmentsOf(headers, table);
  const dynamic = segments.find(({ type }) => type === PT_DYNAMIC);
  if (dynamic === undefined) return;
  const loaded = segments.filter(({ type }) => type === PT_LOAD);
  const place = new Places(loaded, touch);
  place.ends();
  const values = dynamicValues(
    yield { offset: dynamic.offset, length: Math.min(dynamic.fileSize, MAX_DYNAMIC_BYTES) },
    table.wide,
  );
  const at = (tag: number): number => values.get(tag) ?? 0;
  place.stretch(at(DT_STRTAB), Math.min(at(DT_STRSZ), MAX_NAMES_BYTES));
  if (values.has(DT_VERSYM)) place.at(at(DT_VERSYM));

  const slots = Math.min(MAX_CONSTRUCTORS, Math.floor(at(DT_INIT_ARRAYSZ) / 8));
  const relocated = new Relocated(place, at(DT_INIT_ARRAY), slots);
  for (const [name, size, take] of [
    [DT_RELR, DT_RELRSZ, (bytes: Uint8Array) => relocated.takeRelative(bytes)],
    [DT_RELA, DT_RELASZ, (bytes: Uint8Array) => relocated.take(bytes)],
  ] as const) {
    const [offset, bytes] = [place.offset(at(name)), Math.min(at(size), MAX_TABLE_BYTES)];
    for (let done = 0; offset >= 0 && done < bytes; done += PIECE_BYTES)
      take(yield { offset: offset + done, length: Math.min(PIECE_BYTES, bytes - done) });
  }
  const array = place.offset(at(DT_INIT_ARRAY));
  if (slots > 0 && array >= 0 && !relocated.namesConstructors)
    relocated.takeArray(yield { offset: array, length: 8 * slots });

  const constructors = relocated.constructors();
  for (const address of constructors) place.at(address);
  if (table.machine !== EM_X86_64) return;
  for (const bodies of blocksOf(constructors, place)) {
    const part = partOf(bodies);
    searchBodies(yield part, part.offset, bodies, place);
  }
}

/** Where a constructor begins in the file, and how long it is at the most. */
interface Body {
  readonly address: number;
  readonly offset: number;
  readonly length: number;
}

/** Constructors by the block of the file that they begin in, blocks in the order in which they are reached. */
function blocksOf(constructors: readonly number[], place: Places): Body[][] {
  const each = [...new Set(constructors)];
  const sorted = Float64Array.from(each).sort();
  const next = new Map(Array.from(sorted, (address, i) => [address, sorted[i + 1] ?? Number.POSITIVE_INFINITY]));
  const blocks = new Map<number, Body[]>();
  for (const address of each) {
    const offset = place.offset(address);
    const block = Math.floor(offset / BLOCK_BYTES);
    const bodies = blocks.get(block);
    const most = Math.min(MAX_BODY_BYTES, (block + 1) * BLOCK_BYTES - offset);
    const body = { address, offset, length: Math.min(most, next.get(address)! - address) };
    if (bodies !== undefined) bodies.push(body);
    else if (blocks.size < MAX_BLOCKS) blocks.set(block, [body]);
  }
  return [...blocks.values()];
}

function partOf(bodies: readonly Body[]): FilePart {
  const offset = bodies.reduce((least, body) => Math.min(least, body.offset), Number.POSITIVE_INFINITY);
  return { offset, length: bodies.reduce((most, body) => Math.max(most, body.offset + body.length - offset), 0) };
}

function searchBodies(part: Uint8Array, offset: number, bodies: readonly Body[], place: Places): void {
  for (const body of bodies) {
    const from = body.offset - offset;
    eachReference(part.subarray(from, from + body.length), body.address, (target, called) => {
      if (!called || place.isCode(target)) place.at(target, false);
    });
  }
}
