/**
 * How a layer's compressed bytes turn into its tar.
 * - `tar`: they are the tar. A span inflates by copying.
 * - `gzip`: inflate from a checkpoint between any two symbols (docs/internals/decisions/0001-inflate-in-webassembly.md).
 * - `zstd`: every span starts at a frame and is decoded on its own (zstd:chunked, multi-frame).
 * - `zstd-stream`: one frame: spans can only be decoded in order, from the layer's first byte.
 * - `blocks`: the file of a version 1 archive: data blocks, each with its CRC-64 behind it. Never in a version 3 archive.
 */
export type LayerKind = 'tar' | 'gzip' | 'zstd' | 'zstd-stream' | 'blocks';

/**
 * The data blocks of a `blocks` layer, by their place in it: what its spans are checked by (docs/legacy.md, "What is checked").
 * A block's checksum is the 8 bytes behind its content.
 */
export interface BlockColumns {
  /** Where the content begins, ascending, and its length: never 0. Blocks do not overlap. */
  readonly start: Float64Array;
  readonly length: Float64Array;
  /** SHA-256 of the content as the index claims it, in hex; empty where it claims none. Old ones may be wrong. */
  readonly hash: readonly string[];
}

/**
 * A layer's spans, as columns. Span i inflates to layer bytes [layerOffset[i], layerOffset[i+1]) out of compressed bits
 * [bitOffset[i], bitOffset[i+1]); its digest covers bytes ⌊bitOffset[i]/8⌋ to ⌈bitOffset[i+1]/8⌉ of the blob. Kind, offsets and
 * the two digests of a span decide its bytes (of a `zstd-stream`, those of the spans before it too).
 */
export interface SpanTable {
  readonly kind: LayerKind;
  /** Number of spans; 0 for a layer without output. */
  readonly count: number;
  /** count + 1 offsets in the uncompressed tar, strictly increasing, first 0, last the layer's size. Safe integers. */
  readonly layerOffset: Float64Array;
  /** count + 1 offsets in the blob, in BITS, increasing. Safe integers. Multiples of 8 except inside gzip. */
  readonly bitOffset: Float64Array;
  /** Where span i's checkpoint state lies in the windows section; length 0 where none is needed (frame or member start). */
  readonly windowPosition: Float64Array;
  readonly windowLength: Uint32Array;
  /** CRC-32 of the span's inflated bytes. */
  readonly crc32: Uint32Array;
  /** 32 bytes a span: SHA-256 of its compressed bytes (⌊start/8⌋ to ⌈end/8⌉). */
  readonly sha256: Uint8Array;
  /** Of gzip, 32 bytes a span: SHA-256 of its raw checkpoint state, of no bytes where none is needed. Empty for other kinds. */
  readonly stateSha256: Uint8Array;
  /** Of a `blocks` layer, in place of `crc32` and `sha256`. */
  readonly blocks?: BlockColumns | undefined;
}

/** Where the bytes of an archive's layers are kept. */
export type ArchiveStorage =
  /** In a registry or an image layout, as the image section says. */
  | { readonly kind: 'oci' }
  /** In the archive file itself, which is its only layer. */
  | { readonly kind: 'local' }
  /** In an object of an S3 bucket, which is its only layer. */
  | ({ readonly kind: 's3' } & S3Location);

export interface S3Location {
  readonly bucket: string;
  /** Empty: the client's default. */
  readonly region: string;
  readonly key: string;
  /** Empty: Amazon's own. */
  readonly endpoint: string;
  /** The bucket's name stands in the path and not in the host name. */
  readonly forcePathStyle: boolean;
}

export interface LayerMeta {
  /** "sha256:…" of the blob. */
  readonly digest: string;
  readonly mediaType: string;
  /** Blob size in bytes. */
  readonly size: number;
  /** "sha256:…" of the uncompressed tar, from the image config. */
  readonly diffId: string;
  readonly uncompressedSize: number;
}

/** The image section (docs/format.md, "1: image"). */
export interface ImageMeta {
  /** As the user gave it, with Docker's defaults filled in: "127.0.0.1:5000/py:latest". For a layout: "oci:/dir:tag". */
  readonly reference: string;
  /** "host[:port]"; empty for an image layout. */
  readonly registry: string;
  /** "library/python"; for an image layout the layout's absolute directory. */
  readonly repository: string;
  readonly manifestDigest: string;
  readonly platform: { readonly os: string; readonly architecture: string; readonly variant?: string | undefined };
  /** The image's config blob, as parsed JSON ({config: {Env, Cmd, Entrypoint, …}, rootfs, …}). */
  readonly config: Readonly<Record<string, unknown>>;
  /** In order of application, base first. EROFS device id = index + 1. */
  readonly layers: readonly LayerMeta[];
}

/** With `--hashes`: SHA-256 of the content of regular files. */
export interface FileHashes {
  readonly count: number;
  /** Strictly increasing. */
  readonly nid: Float64Array;
  /** 32 bytes a file. */
  readonly sha256: Uint8Array;
}

/**
 * The files that lead to others: a program that runs or loads the one reads the others (shared libraries, imported modules). A hint.
 * The parts of file i are [first…[i], first…[i + 1]) of `target` and `range`.
 */
export interface References {
  readonly count: number;
  /** Strictly increasing. */
  readonly nid: Float64Array;
  readonly firstTarget: Uint32Array;
  /** Positions in `nid`, in the order in which they will be read. */
  readonly target: Uint32Array;
  readonly firstRange: Uint32Array;
  /** (first page, pages) of 4 KiB, for a file of which only these are read at once. */
  readonly range: Uint32Array;
}

/** Spans in the order in which a run first touches them. */
export interface Profile {
  /** Seen in a run, or derived from the image's entrypoint. */
  readonly source: 'recorded' | 'static';
  /** Index into ImageMeta.layers. */
  readonly layer: Uint32Array;
  readonly span: Uint32Array;
}
