import type { Nid } from '../bytes/index.js';
import { type ErofsReader, FT, InodeView } from '../erofs/index.js';
import { DIRENT, ENTRY_SIZE } from './abi.js';
import type { Encoder } from './encode.js';

/** d_type of an EROFS dirent type (dirent.h: DT_REG = S_IFREG >> 12 and so on). */
const DT: readonly number[] = (() => {
  const table: number[] = [];
  table[0] = 0;
  table[FT.regular] = 8;
  table[FT.directory] = 4;
  table[FT.character] = 2;
  table[FT.block] = 6;
  table[FT.fifo] = 1;
  table[FT.socket] = 12;
  table[FT.symlink] = 10;
  return table;
})();

/** Fills READDIR and READDIRPLUS replies, allocating nothing. One instance per worker. */
export class Listing {
  readonly #inode = new InodeView();
  #reader: ErofsReader | null = null;
  #plus = false;
  #at = 0;
  #end = 0;

  constructor(private readonly encoder: Encoder) {}

  /** Entries from `cookie` on, as many as fit between `at` and `at + size`. Returns the end of the written bytes. */
  fill(reader: ErofsReader, nid: Nid, cookie: number, size: number, at: number, plus: boolean): number {
    this.#reader = reader;
    this.#plus = plus;
    this.#at = at;
    this.#end = at + size;
    reader.readdir(nid, cookie, this.#add);
    return this.#at;
  }

  forget(): void {
    this.#reader = null;
  }

  readonly #add = (nid: Nid, type: number, nameStart: number, nameEnd: number, next: number): boolean => {
    const { encoder } = this;
    const reader = this.#reader!;
    const names = reader.image;
    const length = nameEnd - nameStart;
    const record = (DIRENT.name + length + 7) & ~7;
    let at = this.#at;
    if (at + record + (this.#plus ? ENTRY_SIZE : 0) > this.#end) return false;
    if (this.#plus) {
      // A node id here counts as a lookup; the kernel takes none for "." and "..".
      if (names[nameStart] === 0x2e && (length === 1 || (length === 2 && names[nameStart + 1] === 0x2e))) {
        encoder.bytes.fill(0, at, at + ENTRY_SIZE);
      } else {
        reader.inode(nid, this.#inode);
        encoder.entry(at, this.#inode);
      }
      at += ENTRY_SIZE;
    }
    this.#at = encoder.dirent(at, nid, next, DT[type] ?? 0, names, nameStart, nameEnd);
    return true;
  };
}
