/** System V gABI, chapter 5, "Program Header". */
export const [PT_LOAD, PT_DYNAMIC, PT_INTERP] = [1, 2, 3];
/** What is read-only once it is relocated (LSB core, "Program Headers"). */
export const PT_GNU_RELRO = 0x6474e552;
export const [PF_X, PF_W] = [1, 2];

/** Real files have fewer. */
const MAX_PROGRAM_HEADERS = 128;

/** Where a file's program headers lie. */
export interface ProgramTable {
  readonly offset: number;
  readonly entrySize: number;
  readonly count: number;
  /** Of 64 bits. */
  readonly wide: boolean;
  /** e_machine: the processor. */
  readonly machine: number;
}

export interface Segment {
  readonly type: number;
  readonly flags: number;
  readonly offset: number;
  readonly address: number;
  readonly fileSize: number;
  readonly memorySize: number;
}

export function wordAt(view: DataView, at: number, wide: boolean): number {
  const low = view.getUint32(at, true);
  return wide ? view.getUint32(at + 4, true) * 2 ** 32 + low : low;
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

/**
 * The table of a little-endian file of either width; null for any other file and for a malformed one.
 * @param head  the first 64 bytes
 */
export function programTable(head: Uint8Array): ProgramTable | null {
  if (head.length < 52 || head[0] !== 0x7f || head[1] !== 0x45 || head[2] !== 0x4c || head[3] !== 0x46) return null;
  if (head[5] !== 1) return null;
  const wide = head[4] === 2;
  if (wide && head.length < 64) return null;
  const view = viewOf(head);
  const entrySize = view.getUint16(wide ? 54 : 42, true);
  const count = view.getUint16(wide ? 56 : 44, true);
  if (count > MAX_PROGRAM_HEADERS || entrySize < (wide ? 56 : 32) || entrySize > 256) return null;
  return { offset: wordAt(view, wide ? 32 : 28, wide), entrySize, count, wide, machine: view.getUint16(18, true) };
}

/** @param bytes  the whole table */
export function segmentsOf(bytes: Uint8Array, { count, entrySize, wide }: ProgramTable): Segment[] {
  const table = viewOf(bytes);
  return Array.from({ length: count }, (_, i): Segment => {
    const at = i * entrySize;
    return {
      type: table.getUint32(at, true),
      flags: table.getUint32(at + (wide ? 4 : 24), true),
      offset: wordAt(table, at + (wide ? 8 : 4), wide),
      address: wordAt(table, at + (wide ? 16 : 8), wide),
      fileSize: wordAt(table, at + (wide ? 32 : 16), wide),
      memorySize: wordAt(table, at + (wide ? 40 : 20), wide),
    };
  });
}

/** Where an address lies in the file; -1 if nowhere. */
export function offsetOf(address: number, loaded: readonly Segment[]): number {
  const home = loaded.find((s) => address >= s.address && address - s.address < s.fileSize);
  return home === undefined ? -1 : home.offset + (address - home.address);
}

/** The entries of a dynamic section, the first of each tag. */
export function dynamicValues(bytes: Uint8Array, wide: boolean): Map<number, number> {
  const view = viewOf(bytes);
  const step = wide ? 16 : 8;
  const values = new Map<number, number>();
  for (let at = 0; at + step <= bytes.length; at += step) {
    const tag = wordAt(view, at, wide);
    if (tag === 0) break;
    if (!values.has(tag)) values.set(tag, wordAt(view, at + step / 2, wide));
  }
  return values;
}
