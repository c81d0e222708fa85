import { closeSync, openSync, read } from 'node:fs';
import type { ImageMeta } from '../archive/index.js';
import type { Nid } from '../bytes/index.js';
import { type ErofsReader, InodeView, resolvePath } from '../erofs/index.js';
import { commandWords, runsAnother } from '../startup/index.js';

/** Docker's PATH for an image that sets none. */
const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
const MAX_DIRECTORIES = 16;
const MAX_PATH = 4096;
/** Libraries of one command of a linker. */
const MAX_LINKED = 32;

/** The files of an image that the words of a command name. */
export class CommandFiles {
  readonly #reader: ErofsReader;
  readonly #inode = new InodeView();
  readonly #programs: readonly string[];
  readonly #directory: string;

  constructor({ config }: Pick<ImageMeta, 'config'>, reader: ErofsReader) {
    const { Env, WorkingDir } = (config.config ?? {}) as Record<string, unknown>;
    const path = strings(Env).find((line) => line.startsWith('PATH='));
    this.#reader = reader;
    this.#programs = (path?.slice('PATH='.length) ?? DEFAULT_PATH).split(':').slice(0, MAX_DIRECTORIES);
    this.#directory = typeof WorkingDir === 'string' ? WorkingDir : '/';
  }

  /**
   * In the order of the words.
   * @param begun the command runs already: if its program only runs another one (chroot, which may be the host's), it has read what it needs
   * @throws FormatError
   */
  of(argv: readonly string[], begun = false): Nid[] {
    const files = new Set<Nid>();
    let running = false;
    for (const { word, program } of commandWords(argv)) {
      // The words behind a program are its arguments, unless they are those of a shell's line.
      const line = program && !argv.includes(word);
      const named = program && !word.includes('/') && (line || !running) ? this.#program(word) : -1;
      const nid = named >= 0 ? named : this.#file(word.startsWith('/') ? word : `${this.#directory}/${word}`);
      if (nid < 0) continue;
      const another = runsAnother(word);
      if (!another || !begun || word !== argv[0]) files.add(nid as Nid);
      running ||= !another;
    }
    for (const nid of this.#linked(argv)) files.add(nid);
    return [...files];
  }

  /** `-lNAME` behind `-LDIRECTORY`, as linkers look for it. */
  *#linked(argv: readonly string[]): Generator<Nid> {
    const directories = [...new Set(argv.filter((word) => word.startsWith('-L/')))].slice(0, MAX_DIRECTORIES);
    if (directories.length === 0) return;
    const names = [...new Set(argv.filter((word) => /^-l[\w+.-]+$/.test(word)))].slice(0, MAX_LINKED);
    for (const name of names) {
      const candidates = directories.flatMap((directory) =>
        ['so', 'a'].map((ending) => `${directory.slice(2)}/lib${name.slice(2)}.${ending}`),
      );
      const found = candidates.map((path) => this.#file(path)).find((nid) => nid >= 0);
      if (found !== undefined) yield found as Nid;
    }
  }

  #program(name: string): number {
    for (const directory of this.#programs) {
      const nid = this.#file(`${directory}/${name}`);
      if (nid >= 0) return nid;
    }
    return -1;
  }

  #file(path: string): number {
    if (path.length > MAX_PATH) return -1;
    const nid = resolvePath(this.#reader, Buffer.from(path, 'latin1'), true);
    if (nid < 0) return -1;
    this.#reader.inode(nid as Nid, this.#inode);
    return this.#inode.isFile ? nid : -1;
  }
}

/** The words of a container's command. `given`: as in MountRequest; absent: the image's own command. */
export function wordsOf({ config }: Pick<ImageMeta, 'config'>, given?: readonly string[]): string[] {
  const { Entrypoint, Cmd } = (config.config ?? {}) as Record<string, unknown>;
  if (given === undefined) return [...strings(Entrypoint), ...strings(Cmd)];
  const [entrypoint, ...args] = given;
  return entrypoint === '' ? [...strings(Entrypoint), ...args] : [...given];
}

function strings(value: unknown): string[] {
  if (typeof value === 'string') return ['/bin/sh', '-c', value];
  return Array.isArray(value) ? value.filter((v): v is string => typeof v === 'string') : [];
}

/** Of a command line so much is read; compilers' are longer, and name what matters first. */
const MAX_LINE = 8192;
/** A thread is not asked again within this time: sooner than one round trip none runs another program that has to wait. */
const SAME_MS = 5;
/** Command lines that are remembered as known. */
const MAX_LINES = 256;

/**
 * The command lines of the processes that read from a mount. They name files that will be read soon: a script, a program that is to be
 * run, a source file. They may hold secrets, so they stay in the memory of this process: only the files that they name are looked up.
 */
export class ReaderCommands {
  readonly #known = new Set<string>();
  readonly #line = Buffer.allocUnsafe(MAX_LINE);
  readonly #wanted: () => boolean;
  #reading = false;
  #thread = 0;
  #at = 0;

  /** @param wanted whether files that commands name are fetched at all; if not, nothing of a process is looked at */
  constructor(wanted: () => boolean) {
    this.#wanted = wanted;
  }

  /**
   * Gets the words of a reader's command, unless they are known. The kernel reads them under a lock of the process (mmap_lock) that may be
   * held until one of its reads is answered. So this thread, which answers reads, does not wait for them; and of the threads that libuv has for
   * files it takes one at the most. Nothing else of /proc/PID is looked at: its links wait for exec_update_lock, which a program that is being started
   * holds while it reads.
   */
  look(thread: number, use: (words: readonly string[]) => void): void {
    if (thread === 0 || this.#reading || !this.#wanted()) return;
    // A reader that waits again and again runs the same program.
    const now = performance.now();
    if (thread === this.#thread && now - this.#at < SAME_MS) return;
    this.#thread = thread;
    this.#at = now;
    let fd: number;
    try {
      fd = openSync(`/proc/${thread}/cmdline`, 'r');
    } catch {
      return; // it has ended
    }
    this.#reading = true;
    read(fd, this.#line, 0, MAX_LINE, 0, (error, length) => {
      closeSync(fd);
      this.#reading = false;
      if (error !== null || length === 0) return;
      const text = this.#line.toString('latin1', 0, length);
      if (this.#known.has(text)) return;
      if (this.#known.size >= MAX_LINES) this.#known.clear();
      this.#known.add(text);
      use(text.replace(/\0$/, '').split('\0'));
    });
  }
}
