import { closeSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import type { ConnectionId, Nid } from '../bytes/index.js';
import type { OwnDirectory } from '../paths/index.js';

/** A read that was under way, as the kernel asked for it. */
export interface JournaledRead {
  readonly unique: bigint;
  readonly nid: Nid;
  readonly offset: number;
  readonly size: number;
}

/** unique u64 (0: free), nid, offset and size as f64. */
const SLOT = 32;
/** The kernel has at most max_background reads under way and one for each blocked thread. Reads beyond this bound are not written down. */
const MAX_SLOTS = 16_384;

/** Linux can send requests again that a dead server took (FUSE_NOTIFY_RESEND) since 6.9. */
export function kernelResends(kernel = release()): boolean {
  const [major = 0, minor = 0] = kernel.split('.').map((part) => Number.parseInt(part, 10));
  return major > 6 || (major === 6 && minor >= 9);
}

/** In the root. */
export const JOURNAL_DIRECTORY = 'reads';

/**
 * The missed reads of one connection, written down for the next server on kernels that would not ask it again: it answers
 * them in the place of the one that was killed. A file in the root, which is in memory; no fsync, because a kernel that goes
 * down takes the readers with it.
 */
export class ReadJournal {
  readonly #path: string;
  readonly #slots = new Map<bigint, number>();
  readonly #free: number[] = [];
  readonly #record = Buffer.alloc(SLOT);
  #used = 0;
  #fd: number;

  private constructor(path: string, fd: number) {
    this.#path = path;
    this.#fd = fd;
  }

  /** @returns also what the server before has left; nothing of it is in the new journal yet */
  static open(root: OwnDirectory, connection: ConnectionId): { journal: ReadJournal; left: JournaledRead[] } {
    root.make(JOURNAL_DIRECTORY);
    const path = join(root.at(JOURNAL_DIRECTORY), String(connection));
    const left = read(path);
    return { journal: new ReadJournal(path, openSync(path, 'w', 0o600)), left };
  }

  begin({ unique, nid, offset, size }: JournaledRead): void {
    const slot = this.#free.pop() ?? this.#used;
    if (slot >= MAX_SLOTS) return;
    if (slot === this.#used) this.#used++;
    this.#record.writeBigUInt64LE(unique, 0);
    this.#record.writeDoubleLE(nid, 8);
    this.#record.writeDoubleLE(offset, 16);
    this.#record.writeDoubleLE(size, 24);
    if (this.#write(slot)) this.#slots.set(unique, slot);
  }

  end(unique: bigint): void {
    const slot = this.#slots.get(unique);
    if (slot === undefined) return;
    this.#slots.delete(unique);
    this.#free.push(slot);
    this.#record.fill(0);
    this.#write(slot);
  }

  /** A root that is full costs what the journal is for, not the read. */
  #write(slot: number): boolean {
    if (this.#fd < 0) return false;
    try {
      writeSync(this.#fd, this.#record, 0, SLOT, slot * SLOT);
      return true;
    } catch {
      this.#free.push(slot);
      return false;
    }
  }

  /** What is in it stays for the next server. */
  close(): void {
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }

  /** The connection has ended. */
  remove(): void {
    this.close();
    rmSync(this.#path, { force: true });
  }
}

function read(path: string): JournaledRead[] {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch {
    return [];
  }
  const found: JournaledRead[] = [];
  for (let at = 0; at + SLOT <= bytes.length; at += SLOT) {
    const unique = bytes.readBigUInt64LE(at);
    const [nid, offset, size] = [8, 16, 24].map((field) => bytes.readDoubleLE(at + field)) as [number, number, number];
    const sane = [nid, offset, size].every((value) => Number.isSafeInteger(value) && value >= 0);
    if (unique !== 0n && sane) found.push({ unique, nid, offset, size });
  }
  return found;
}
