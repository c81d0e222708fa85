import { closeSync, type FSWatcher, fstatSync, openSync, readSync, statSync, watch } from 'node:fs';
import { parseWarning, type RecentWarning } from '../wire/index.js';

/** As many are kept for `stats` and `closed`. */
const KEPT = 50;
const CHUNK = 65_536;
/** A line longer than this is not one of clipd's. */
const MAX_LINE = 1 << 20;

/**
 * The warnings in the log of a private engine. It is a file and not a pipe, because an engine must never wait for a caller that is blocked.
 * The descriptor outlives the file, which goes with the engine. When the engine begins another log, the rest of the old one is read first.
 */
export class EngineLog {
  #fd: number;
  readonly #recent: RecentWarning[] = [];
  readonly #listeners = new Set<(warning: RecentWarning) => void>();
  readonly #path: string;
  #watcher: FSWatcher | null = null;
  #at = 0;
  #rest = '';
  #closed = false;

  constructor(path: string) {
    this.#path = path;
    this.#fd = openSync(path, 'r');
  }

  /** The last warnings, the newest last. */
  get recent(): readonly RecentWarning[] {
    this.#read();
    return [...this.#recent];
  }

  /** @returns ends it */
  listen(listener: (warning: RecentWarning) => void): () => void {
    this.#read(); // what came before is not for this one
    this.#listeners.add(listener);
    this.#watch();
    return () => {
      this.#read();
      this.#listeners.delete(listener);
    };
  }

  #watch(): void {
    this.#watcher ??= watch(this.#path, { persistent: false }, () => this.#read());
  }

  #read(): void {
    if (this.#closed) return;
    this.#readToEnd();
    if (!this.#turnToNext()) return;
    this.#readToEnd();
  }

  /** Whether the path leads to another file by now. */
  #turnToNext(): boolean {
    const now = statSync(this.#path, { throwIfNoEntry: false });
    if (now === undefined || now.ino === fstatSync(this.#fd).ino) return false;
    closeSync(this.#fd);
    this.#fd = openSync(this.#path, 'r');
    this.#at = 0;
    this.#rest = '';
    if (this.#watcher === null) return true;
    this.#watcher.close();
    this.#watcher = null;
    this.#watch();
    return true;
  }

  #readToEnd(): void {
    const buffer = Buffer.allocUnsafe(CHUNK);
    for (;;) {
      const length = readSync(this.#fd, buffer, 0, CHUNK, this.#at);
      if (length === 0) return;
      this.#at += length;
      const lines = (this.#rest + buffer.toString('utf8', 0, length)).split('\n');
      this.#rest = lines.pop()!.slice(-MAX_LINE);
      for (const line of lines) this.#take(parseWarning(line));
    }
  }

  #take(warning: RecentWarning | null): void {
    if (warning === null) return;
    this.#recent.push(warning);
    if (this.#recent.length > KEPT) this.#recent.shift();
    for (const listener of this.#listeners) listener(warning);
  }

  close(): void {
    if (this.#closed) return;
    this.#read();
    this.#closed = true;
    this.#watcher?.close();
    closeSync(this.#fd);
  }
}
