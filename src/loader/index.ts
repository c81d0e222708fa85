/**
 * How the programs in dist/lib/ are loaded: with the code that V8 compiled of them in an earlier run. The build puts `runProgram` in front of
 * each program; the programs themselves only say when a run is worth keeping. Also the flags of V8, which such code depends on. Imports
 * nothing. Runs in every process and thread.
 */

export { inlineLess } from './inlining.js';
export { KEEP_AFTER_MS, keepCode, keepCodeSoon } from './keep.js';
export { collectGarbage, leaveUnoptimized } from './v8-flags.js';
