/**
 * A file of compiled code: one line of JSON, then the code of each chunk at a multiple of 8, as V8 wants it in memory.
 * V8 itself refuses code of another version, other flags or a source of another length; another text of the same length it does not notice,
 * so each chunk's code is kept under the id that the build wrote into the chunk.
 */
const FORMAT = 2;
const ALIGNMENT = 8;
/** Of the code, to the largest program with room to grow: a file that claims more is damaged. */
const MAX_BYTES = 32 << 20;

export interface CompiledChunk {
  readonly id: string;
  readonly code: Uint8Array;
}

interface Head {
  readonly format: number;
  /** How deep the run had gone that kept it: see `keepCode`. */
  readonly depth: number;
  /** By the chunk's file name: id, offset after the head, length. */
  readonly chunks: Readonly<Record<string, readonly [string, number, number]>>;
}

const aligned = (value: number): number => Math.ceil(value / ALIGNMENT) * ALIGNMENT;

export function encodeCodeFile(chunks: ReadonlyMap<string, CompiledChunk>, depth: number): Uint8Array {
  const places: Record<string, [string, number, number]> = {};
  let length = 0;
  for (const [name, { id, code }] of chunks) {
    places[name] = [id, length, code.length];
    length = aligned(length + code.length);
  }
  const head = JSON.stringify({ format: FORMAT, depth, chunks: places } satisfies Head);
  const start = aligned(head.length + 1);
  const bytes = Buffer.alloc(start + length);
  bytes.write(`${head.padEnd(start - 1)}\n`, 'latin1');
  for (const [name, { code }] of chunks) bytes.set(code, start + places[name]![1]);
  return bytes;
}

export interface CodeFile {
  readonly depth: number;
  readonly chunks: Map<string, CompiledChunk>;
}

/** Empty for what is no such file. */
export function decodeCodeFile(bytes: Buffer): CodeFile {
  const none: CodeFile = { depth: 0, chunks: new Map() };
  const chunks = new Map<string, CompiledChunk>();
  const end = bytes.indexOf(10);
  if (end < 0 || bytes.length > MAX_BYTES) return none;
  let head: Head;
  try {
    head = JSON.parse(bytes.toString('latin1', 0, end)) as Head;
  } catch {
    return none;
  }
  if (head?.format !== FORMAT) return none;
  for (const [name, [id, offset, length]] of Object.entries(head.chunks)) {
    const start = end + 1 + offset;
    if (!(offset >= 0 && length >= 0 && start + length <= bytes.length)) return none;
    chunks.set(name, { id, code: bytes.subarray(start, start + length) });
  }
  return { depth: head.depth, chunks };
}
