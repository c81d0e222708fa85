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
  const { known, writtenAt } = readCode(file);
  const chunks = new Map<string, Chunk>();
  const modules = new Map<string, CommonModule>();
  /** Whether some chunk had to be compiled. */
  let isNew = false;
  /** Whether the file is of another build. */
  let isStale = false;

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
    if (cachedData === undefined || script.cachedDataRejected === true) isNew = true;
    if (compiled !== undefined && compiled.id !== id) isStale = true;
    chunks.set(name, { script, id });
    const module: CommonModule = { exports: {} };
    modules.set(name, module);
    (script.runInThisContext() as Body)(module.exports, requireFrom, module, filename, directory);
    return module.exports;
  };
  const requireFrom: Require = (id) => (id.startsWith('./') ? load(id.slice(2)) : require(id));

  let kept = false;
  (globalThis as { [KEEP]?: () => void })[KEEP] = () => {
    if (kept || !isNew || (!isStale && Date.now() - writtenAt < REPLACE_AFTER_MS)) return;
    kept = true;
    try {
      inlineAsUsual();
      writeCode(store, file, chunks);
    } catch {
      // A full or read-only disk: the next run compiles again.
    }
  };
  load(`${program}.js`);
}

interface Known {
  readonly known: Map<string, CompiledChunk>;
  /** −∞: never. */
  readonly writtenAt: number;
}

function readCode(file: string): Known {
  const none: Known = { known: new Map(), writtenAt: Number.NEGATIVE_INFINITY };
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
    const known = decodeCodeFile(readFileSync(fd));
    return { known, writtenAt: known.size === 0 ? Number.NEGATIVE_INFINITY : mtimeMs };
  } catch {
    return none;
  } finally {
    closeSync(fd);
  }
}

function writeCode(store: string, file: string, chunks: ReadonlyMap<string, Chunk>): void {
  // Root does not write where another user decides what lies there.
  if (statSync(dirname(store)).uid !== process.geteuid?.()) return;
  mkdirSync(store, { recursive: true, mode: 0o755 });
  const compiled = new Map(
    [...chunks].map(([name, { script, id }]) => [name, { id, code: script.createCachedData() }] as const),
  );
  const temporary = `${file}.${process.pid}.${Math.floor(performance.now())}.new`;
  try {
    writeFileSync(temporary, encodeCodeFile(compiled), { flag: 'wx', mode: 0o644 });
    renameSync(temporary, file);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}
