/** The part of the JavaScript API that is used here: neither lib.es2023 nor Node's types declare it. */
declare namespace WebAssembly {
  class Memory {
    constructor(descriptor: { initial: number; maximum: number; shared: boolean });
    readonly buffer: ArrayBufferLike;
  }
  class Module {
    constructor(bytes: Uint8Array);
  }
  class Instance {
    constructor(module: Module, imports?: { readonly env: Readonly<Record<string, Memory | (() => void)>> });
    readonly exports: unknown;
  }
}
