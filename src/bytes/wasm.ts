/** The exports of a new instance of a module that imports nothing. Each file that uses one reads it itself (test/imports.test.ts). */
export function wasmExports(module: Uint8Array): unknown {
  return new WebAssembly.Instance(new WebAssembly.Module(module)).exports;
}
