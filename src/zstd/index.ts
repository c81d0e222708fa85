/**
 * Zstandard layers, mirroring gzip/: frames and blocks, and libzstd's decoder in WebAssembly. Bytes in, values out: no I/O, no
 * digests. Runs in the decode workers of an index build and in the inflate workers of a server.
 *
 * - {@link ZstdIndexer} while indexing. It reports the end of every span and decides the layer's kind: `zstd` when every span
 *   starts at a frame (zstd:chunked, pzstd, anything multi-frame), else `zstd-stream`. There is no checkpoint state: windows
 *   are empty. bitOffset = 8 × byteOffset.
 * - {@link ZstdSpanInflater} for spans of kind `zstd`, in any order.
 * - {@link ZstdStream} for spans of kind `zstd-stream`, all of them in order.
 *
 * Bytes behind the last span (a table of contents in skippable frames) belong to no span.
 */
export { compileZstd } from './decoder.js';
export { ZstdIndexer, type ZstdSummary } from './indexer.js';
export { ZstdSpanInflater, ZstdStream } from './span.js';
