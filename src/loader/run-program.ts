import {
  closeSync,
  fstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import vm from 'node:vm';
import { type CompiledChunk, decodeCodeFile, encodeCodeFile } from './code-file.js';
import { inlineAsUsual } from './inlining.js';
import { KEEP } from './keep.js';

/** The build ends each chunk with `//# id ` and 16 hexadecimal digits. */
const ID_LENGTH = 16;
/** Two Nodes of one version whose code differs (other flags, another machine on the same disk) do not replace each other's file all the time. */
const REPLACE_AFTER_MS = 3_600_000;
/** A thread that collects garbage has V8's flags changed for some 10 ms. */
const RETRY_MS = 100;
const MAX_TRIES = 10;

interface Chunk {
  readonly script: vm.Script;
  readonly id: string;
}

type Require = (id: string) => unknown;
interface CommonModule {
  exports: object;
}
type Body = (exports: object, require: Require, module: CommonModule, filename: string, directory: string) => void;

/**
 * Runs a program of dist/lib/. Node loads and compiles modules one by one; this takes the compiled code of all of them from one file in
 * dist/code-cache/, and so spares a start about half of its time. Where there is no such file, and this user owns dist/, the first run makes it.
 *
 * Compiled code is code: it lies beside the program, where only those can write who can change the program, and it is taken only from
 * a file of root's or of this user's.
 * @param directory  dist/lib
 * @param program    the name of its first chunk, and of the file
 * @param variant    programs that do one thing of many in each run keep a file for each
 * @param require    for what is not a chunk
 */
export function runProgram(directory: string, program: string, variant: string, require: Require): void {
  const store = join(dirname(directory), 'code-cache');
  const file = join(store, `${program}${variant}-${process.version}-${process.arch}`);
  const { known, depth: knownDepth } = readCode(file);
  const chunks = new Map<string, Chunk>();
  const modules = new Map<string, CommonModule>();
  /** Whether some chunk had to be compiled. */
  let isNew = false;
  let usualFlags: Buffer | null = null;
  /** Whether V8 took what the file has. */
  let isTaken = true;

  const load = (name: string): object => {
    const loaded = modules.get(name);
    if (loaded !== undefined) return loaded.exports;
    const filename = join(directory, name);
    // The build writes nothing but ASCII.
    const source = readFileSync(filename, 'latin1');
    const id = source.slice(-ID_LENGTH - 1, -1);
    const compiled = known.get(name);
    known.delete(name); // the file's bytes go with its last chunk
    const cachedData = compiled?.id === id ? (compiled.code as Buffer) : undefined;
    const script = new vm.Script(`(function (exports, require, module, __filename, __dirname) { ${source}\n})`, {
      filename,
      ...(cachedData === undefined ? {} : { cachedData }),
    });
    if (cachedData === undefined || script.cachedDataRejected === true) {
      isNew = true;
      if (compiled !== undefined) isTaken = false;
      usualFlags ??= flagsNow(); // 0.5 ms, in a first run
    } else usualFlags ??= flagsOf(cachedData);
    chunks.set(name, { script, id });
    const module: CommonModule = { exports: {} };
    modules.set(name, module);
    (script.runInThisContext() as Body)(module.exports, requireFrom, module, filename, directory);
    return module.exports;
  };
  const requireFrom: Require = (id) => (id.startsWith('./') ? load(id.slice(2)) : require(id));

  let keptDepth = -1;
  const keep = (depth: number, tries = 0): void => {
    if (depth <= keptDepth || !(isNew || depth > knownDepth)) return;
    // Another run may have kept more since this one began.
    const there = readCode(file);
    const isOfOtherBuild = [...chunks].some(([name, { id }]) => (there.known.get(name)?.id ?? id) !== id);
    const isOld = Date.now() - there.writtenAt >= REPLACE_AFTER_MS;
    if (!isOfOtherBuild && depth <= there.depth && !isOld) return;
    try {
      inlineAsUsual();
      const isUsual = (): boolean => flagsNow().equals(usualFlags!);
      const compiled = isUsual() ? compiledCode(chunks) : null;
      if (compiled === null || !isUsual()) {
        // The code would be of flags that no other run has.
        if (tries < MAX_TRIES) setTimeout(() => keep(depth, tries + 1), RETRY_MS).unref();
        return;
      }
      keptDepth = depth;
      writeCode(store, file, encodeCodeFile(compiled, isTaken ? Math.max(depth, knownDepth) : depth));
    } catch {
      // A full or read-only disk: the next run compiles again.
    }
  };
  (globalThis as { [KEEP]?: (depth: number) => void })[KEEP] = keep;
  load(`${program}.js`);
}

/** A number made of V8's flags, which all threads of a process share. It is the fourth in the head of any compiled code. */
function flagsOf(code: Buffer): Buffer {
  return Buffer.from(code.subarray(12, 16));
}

function flagsNow(): Buffer {
  return flagsOf(new vm.Script('').createCachedData());
}

function compiledCode(chunks: ReadonlyMap<string, Chunk>): Map<string, CompiledChunk> {
  return new Map([...chunks].map(([name, { script, id }]) => [name, { id, code: script.createCachedData() }] as const));
}

interface Known {
  readonly known: Map<string, CompiledChunk>;
  /** -1: of no file. */
  readonly depth: number;
  /** −∞: never. */
  readonly writtenAt: number;
}

function readCode(file: string): Known {
  const none: Known = { known: new Map(), depth: -1, writtenAt: Number.NEGATIVE_INFINITY };
  let fd: number;
  try {
    fd = openSync(file, 'r');
  } catch {
    return none;
  }
  try {
    const { uid, mode, mtimeMs } = fstatSync(fd);
    const own = uid === 0 || uid === process.geteuid?.();
    if (!own || (mode & 0o022) !== 0) return none;
    const { chunks: known, depth } = decodeCodeFile(readFileSync(fd));
    return known.size === 0 ? none : { known, depth, writtenAt: mtimeMs };
  } catch {
    return none;
  } finally {
    closeSync(fd);
  }
}

function writeCode(store: string, file: string, bytes: Uint8Array): void {
  // Root does not write where another user decides what lies there.
  if (statSync(dirname(store)).uid !== process.geteuid?.()) return;
  mkdirSync(store, { recursive: true, mode: 0o755 });
  const temporary = `${file}.${process.pid}.${Math.floor(performance.now())}.new`;
  try {
    writeFileSync(temporary, bytes, { flag: 'wx', mode: 0o644 });
    renameSync(temporary, file);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}
