/** The part of the JavaScript API that is used here: neither lib.es2023 nor Node's types declare it. */
declare namespace WebAssembly {
  class Module {
    constructor(bytes: Uint8Array);
  }
  class Instance {
    constructor(module: Module);
    readonly exports: unknown;
  }
}

/** The exports of a new instance of a module that imports nothing. Each file that uses one reads it itself (test/imports.test.ts). */
export function wasmExports(module: Uint8Array): unknown {
  return new WebAssembly.Instance(new WebAssembly.Module(module)).exports;
}
