import type { EntryColumns } from '../tar/index.js';
import { ELF_HEAD_BYTES, type ElfNeeds, type ElfPart, elfNeeds } from './elf.js';
import type { Language, SeenFile } from './languages/language.js';
import { type ScriptLine, ScriptLines } from './script-lines.js';
import { SourceFiles } from './source-files.js';

/** The needs of one layer's files (libraries, interpreters), by the files' places among the layer's entries. */
export interface LayerReferences {
  readonly elf: readonly { readonly entry: number; readonly needs: ElfNeeds }[];
  readonly scripts: readonly ScriptLine[];
  /** Whether most of the Python bytecode is compared with its source when it is loaded (PEP 552). */
  readonly checked: boolean;
}

const PYC = Buffer.from('.pyc');
/** At most this much of a library's string table is kept while it streams by. Names behind it are not known. */
const MAX_KEPT = 4 * 1024 * 1024;
/** Longest part of a file that is kept besides its beginning: constants. */
const MAX_PART = 1024 * 1024;
const PYC_FLAGS_END = 8;
const ELF_MAGIC = 0x7f454c46;
const ELF_MAGIC_BYTES = 4;
/** Bytes that are kept at first, by kind of file. */
const LIMITS = { unknown: ELF_MAGIC_BYTES, bytecode: PYC_FLAGS_END, elf: ELF_HEAD_BYTES, other: 0 };
const PYC_CHECKED = 3;

function endsWith(bytes: Uint8Array, end: number, suffix: Uint8Array): boolean {
  const start = end - suffix.length;
  for (let i = 0; i < suffix.length; i++) if (bytes[start + i] !== suffix[i]) return false;
  return true;
}

/** Reads the files of a layer while its tar streams by. Its result does not depend on how the stream is cut. */
export class ReferenceScanner {
  readonly #entries: EntryColumns;
  readonly #elf: { entry: number; needs: ElfNeeds }[] = [];
  readonly #scripts = new ScriptLines();
  readonly #sources: SourceFiles;
  /** Numbers of bytecode files, and of those that are compared with their source. */
  #bytecode = 0;
  #checked = 0;
  #entry = -1;
  #kind: 'unknown' | 'bytecode' | 'elf' | 'other' = 'other';
  /** Bytes of the file that have passed. */
  #position = 0;
  /** The first of them, up to `#limit`. */
  #kept = Buffer.allocUnsafeSlow(ELF_HEAD_BYTES);
  #limit = 0;
  #parse: Generator<ElfPart, ElfNeeds | null, Uint8Array> | null = null;
  #want: ElfPart | null = null;
  /** A needed part that lies beyond `#limit`, in memory that the next one has too. */
  #part: Buffer | null = null;
  #parts: Buffer | null = null;

  /** @param onFile  gets each file of a language, which is valid until it returns; the last one at `finish` */
  constructor(entries: EntryColumns, onFile: (entry: number, language: Language, file: SeenFile) => void) {
    this.#entries = entries;
    this.#sources = new SourceFiles(entries, onFile);
  }

  /** TarSink.data: the next stored bytes of a file. */
  data(entry: number, view: Uint8Array): void {
    if (entry !== this.#entry) {
      this.#end();
      this.#scripts.start(entry, this.#entries.extents(entry) === null ? view[0] : undefined);
      this.#start(entry, this.#sources.start(entry, view));
      // Nearly all other files, by their first byte.
      if (this.#kind === 'unknown' && view[0] !== ELF_MAGIC >>> 24) this.#kind = 'other';
    }
    this.#sources.data(view);
    this.#scripts.data(view);
    if (this.#done) return;
    for (let at = 0; at < view.length; ) {
      // Not beyond the offset at which the next needed part is known.
      const ahead = this.#stop() - this.#position;
      const piece = view.subarray(at, ahead > 0 ? at + ahead : view.length);
      this.#take(piece);
      at += piece.length;
      if (this.#done) return;
    }
  }

  #stop(): number {
    const { offset, length } = this.#want ?? { offset: 0, length: 0 };
    return this.#kind === 'elf' ? offset + length : this.#limit;
  }

  get #done(): boolean {
    return this.#kind === 'other';
  }

  #start(entry: number, isSource: boolean): void {
    this.#entry = entry;
    this.#position = 0;
    const entries = this.#entries;
    if (isSource || entries.extents(entry) !== null) this.#kind = 'other';
    else if (endsWith(entries.arena, entries.pathEnd(entry), PYC)) this.#kind = 'bytecode';
    else this.#kind = entries.size(entry) >= 64 ? 'unknown' : 'other';
    this.#limit = LIMITS[this.#kind];
  }

  #take(piece: Uint8Array): void {
    const from = this.#position;
    this.#position += piece.length;
    if (from < this.#limit) this.#kept.set(piece.subarray(0, this.#limit - from), from);
    switch (this.#kind) {
      case 'unknown':
        if (this.#position < ELF_MAGIC_BYTES) return;
        this.#kind = this.#kept.readUInt32BE(0) === ELF_MAGIC ? 'elf' : 'other';
        if (this.#kind === 'elf') this.#begin();
        return;
      case 'bytecode':
        if (this.#position < PYC_FLAGS_END) return;
        this.#bytecode++;
        if (this.#kept.readUInt32LE(4) === PYC_CHECKED) this.#checked++;
        this.#kind = 'other';
        return;
      case 'elf':
        if (this.#part !== null) this.#fill(this.#part, this.#want!, from, piece);
        this.#advance(false);
        return;
    }
  }

  #begin(): void {
    this.#limit = LIMITS.elf;
    this.#parse = elfNeeds();
    this.#next(this.#parse.next());
    this.#advance(false);
  }

  #fill(part: Buffer, want: ElfPart, from: number, piece: Uint8Array): void {
    const start = Math.max(from, want.offset);
    const end = Math.min(from + piece.length, want.offset + part.length);
    if (end > start) part.set(piece.subarray(start - from, end - from), start - want.offset);
  }

  /** Answers parts that have passed; at the file's end also incomplete ones. */
  #advance(ended: boolean): void {
    while (this.#want !== null) {
      const { offset, length } = this.#want;
      const end = offset + length;
      if (end > this.#position && !ended) return;
      const parse = this.#parse!;
      const answer =
        this.#part !== null
          ? this.#part.subarray(0, Math.max(0, this.#position - offset))
          : this.#kept.subarray(offset, Math.min(end, this.#position, this.#limit));
      this.#next(parse.next(answer));
    }
  }

  #next(step: IteratorResult<ElfPart, ElfNeeds | null>): void {
    this.#part = null;
    this.#want = null;
    if (step.done) {
      if (step.value !== null) this.#elf.push({ entry: this.#entry, needs: step.value });
      this.#kind = 'other';
      return;
    }
    const { offset, length, keep } = step.value;
    this.#want = step.value;
    if (this.#position <= this.#limit) this.#limit = Math.min(MAX_KEPT, Math.max(this.#limit, keep));
    const kept = offset + length <= this.#limit;
    if (!kept && offset < this.#position) {
      this.#want = null;
      this.#kind = 'other'; // it has passed
      return;
    }
    if (this.#limit > this.#kept.length) {
      const larger = Buffer.allocUnsafeSlow(MAX_KEPT);
      larger.set(this.#kept);
      this.#kept = larger;
    }
    if (kept) return;
    this.#parts ??= Buffer.allocUnsafeSlow(MAX_PART);
    this.#part = this.#parts.subarray(0, length);
  }

  #end(): void {
    if (this.#kind === 'elf') this.#advance(true);
    this.#kind = 'other';
  }

  finish(): LayerReferences {
    this.#end();
    this.#scripts.end();
    this.#sources.end();
    return { elf: this.#elf, scripts: this.#scripts.found, checked: 2 * this.#checked > this.#bytecode };
  }
}
