import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { deserialize, serialize } from 'node:v8';
import type { ConvertedTree } from '../legacy/index.js';

/** Trees that are kept: some 150 bytes a file each. */
const MAX_KEPT = 32;
const SUM_BYTES = 32;
const WRITE_AFTER_MS = 500;

/**
 * Trees that version 1 archives became when they were opened before, in `trees/` of the cache directory: decoding an index of 40,000
 * files and building its tree takes a third of a second, reading the result a tenth of that. Each file is a SHA-256 and what it is of.
 */
export class LegacyTrees {
  /** Converted and not written yet, of all directories of this process. */
  static readonly #pending = new Map<string, ConvertedTree>();
  readonly #directory: string;

  constructor(cacheDirectory: string) {
    this.#directory = join(cacheDirectory, 'trees');
  }

  #path(identity: string): string {
    return join(this.#directory, identity.slice(identity.indexOf(':') + 1));
  }

  /** Null when it is not there, or not as it was written. */
  get(identity: string): ConvertedTree | null {
    const pending = LegacyTrees.#pending.get(identity);
    if (pending !== undefined) return pending;
    let bytes: Buffer;
    try {
      bytes = readFileSync(this.#path(identity));
    } catch {
      return null;
    }
    const kept = bytes.subarray(SUM_BYTES);
    if (!createHash('sha256').update(kept).digest().equals(bytes.subarray(0, SUM_BYTES))) return null;
    return deserialize(kept) as ConvertedTree;
  }

  /** Soon, when the mount is done. A cache that cannot be written costs time and nothing else. */
  put(identity: string, tree: ConvertedTree): void {
    LegacyTrees.#pending.set(identity, tree);
    setTimeout(() => {
      this.#write(identity, tree);
      LegacyTrees.#pending.delete(identity);
    }, WRITE_AFTER_MS).unref();
  }

  #write(identity: string, tree: ConvertedTree): void {
    const path = this.#path(identity);
    const temporary = `${path}.${randomBytes(4).toString('hex')}.tmp`;
    try {
      mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
      const kept = serialize(tree);
      const sum = createHash('sha256').update(kept).digest();
      writeFileSync(temporary, Buffer.concat([sum, kept]), { mode: 0o600 });
      renameSync(temporary, path);
      this.#prune();
    } catch {
      rmSync(temporary, { force: true });
    }
  }

  #prune(): void {
    const used = (name: string): number =>
      statSync(join(this.#directory, name), { throwIfNoEntry: false })?.mtimeMs ?? 0;
    const names = readdirSync(this.#directory).sort((a, b) => used(b) - used(a));
    for (const name of names.slice(MAX_KEPT)) rmSync(join(this.#directory, name), { force: true });
  }
}
