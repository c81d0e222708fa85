const FLAG = '--max-inlined-bytecode-size-cumulative';
/** Bytes of functions that V8 copies into one of their callers: its own setting (of Node 20), and ours. */
const [USUAL, LESS] = [920, 120];

/**
 * Lets V8 copy less code into callers from now on. It compiles on threads of its own, which in the two seconds of an index build take the
 * cores from those that decompress (docs/benchmarks.md, "Indexing and opening"). To be called when all threads have loaded what they
 * need: V8 takes kept code, Node's own too, only under the flags under which it was kept.
 */
export function inlineLess(): void {
  limit(LESS);
}

/** For code that is to be kept. */
export function inlineAsUsual(): void {
  limit(USUAL);
}

function limit(bytes: number): void {
  // Not imported: no other program needs it.
  process.getBuiltinModule('node:v8').setFlagsFromString(`${FLAG}=${bytes}`);
}
