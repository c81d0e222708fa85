/** What the dynamic loader reads of a program or library before it maps anything else (System V gABI, chapters 4 and 5). */
export interface ElfNeeds {
  /** PT_INTERP: the loader, for a program. */
  readonly interpreter: string | null;
  /** DT_NEEDED. */
  readonly needed: readonly string[];
  /** DT_RUNPATH, else DT_RPATH; split, $ORIGIN not yet replaced. */
  readonly searchPath: readonly string[];
}

/** Up to `length` bytes of a file at `offset`. */
export type ReadFile = (offset: number, length: number) => Promise<Uint8Array>;

const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_INTERP = 3;
const [DT_NULL, DT_NEEDED, DT_STRTAB, DT_STRSZ, DT_RPATH, DT_RUNPATH] = [0, 1, 5, 10, 15, 29];
/** More program headers, dynamic entries or string table than any real file has: then it is not one. */
const MAX_PROGRAM_HEADERS = 128;
const MAX_DYNAMIC_BYTES = 64 * 1024;
const MAX_STRINGS = 4 * 1024 * 1024;
const MAX_PATH = 4096;

interface Segment {
  readonly type: number;
  readonly offset: number;
  readonly address: number;
  readonly fileSize: number;
}

function cString(bytes: Uint8Array, at: number): string {
  const end = bytes.indexOf(0, at);
  return Buffer.from(bytes.subarray(at, Math.min(end === -1 ? bytes.length : end, at + MAX_PATH))).toString('latin1');
}

/** Little-endian ELF of either width; null for anything else, and for what makes no sense. */
export async function readElf(read: ReadFile): Promise<ElfNeeds | null> {
  const head = await read(0, 64);
  if (head.length < 52 || head[0] !== 0x7f || head[1] !== 0x45 || head[2] !== 0x4c || head[3] !== 0x46) return null;
  if (head[5] !== 1) return null;
  const wide = head[4] === 2;
  if (wide && head.length < 64) return null;
  const word = (view: DataView, at: number): number =>
    wide ? Number(view.getBigUint64(at, true)) : view.getUint32(at, true);
  const header = new DataView(head.buffer, head.byteOffset, head.length);
  const tableOffset = word(header, wide ? 32 : 28);
  const entrySize = header.getUint16(wide ? 54 : 42, true);
  const count = header.getUint16(wide ? 56 : 44, true);
  if (count > MAX_PROGRAM_HEADERS || entrySize < (wide ? 56 : 32) || entrySize > 256) return null;
  const bytes = await read(tableOffset, entrySize * count);
  if (bytes.length < entrySize * count) return null;
  const table = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const segments = Array.from({ length: count }, (_, i): Segment => {
    const at = i * entrySize;
    return {
      type: table.getUint32(at, true),
      offset: word(table, at + (wide ? 8 : 4)),
      address: word(table, at + (wide ? 16 : 8)),
      fileSize: word(table, at + (wide ? 32 : 16)),
    };
  });
  const interp = segments.find((s) => s.type === PT_INTERP);
  const interpreter =
    interp === undefined ? null : cString(await read(interp.offset, Math.min(interp.fileSize, MAX_PATH)), 0);
  const dynamic = segments.find((s) => s.type === PT_DYNAMIC);
  if (dynamic === undefined) return { interpreter, needed: [], searchPath: [] };

  const entries = await read(dynamic.offset, Math.min(dynamic.fileSize, MAX_DYNAMIC_BYTES));
  const view = new DataView(entries.buffer, entries.byteOffset, entries.length);
  const step = wide ? 16 : 8;
  const found: (readonly [number, number])[] = [];
  for (let at = 0; at + step <= entries.length; at += step) {
    const tag = word(view, at);
    if (tag === DT_NULL) break;
    found.push([tag, word(view, at + step / 2)]);
  }
  const value = (tag: number): number | undefined => found.find(([t]) => t === tag)?.[1];
  const [address, size] = [value(DT_STRTAB), value(DT_STRSZ)];
  if (address === undefined || size === undefined || size > MAX_STRINGS)
    return { interpreter, needed: [], searchPath: [] };
  const home = segments.find((s) => s.type === PT_LOAD && address >= s.address && address - s.address < s.fileSize);
  if (home === undefined) return { interpreter, needed: [], searchPath: [] };
  const strings = await read(home.offset + (address - home.address), size);
  const run = value(DT_RUNPATH) ?? value(DT_RPATH);
  return {
    interpreter,
    needed: found.filter(([tag]) => tag === DT_NEEDED).map(([, at]) => cString(strings, at)),
    searchPath:
      run === undefined
        ? []
        : cString(strings, run)
            .split(':')
            .filter((part) => part !== ''),
  };
}
