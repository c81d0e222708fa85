import { createHash } from 'node:crypto';
import { inflateRawSync } from 'node:zlib';
import type { LayerIndex, SpanIndex } from '../bytes/index.js';
import { Cursor, FormatError, toHex } from '../bytes/index.js';
import type { Placement } from '../erofs/index.js';
import { type CheckpointState, decodeCheckpointState } from '../gzip/index.js';
import { type EntryColumns, unpackEntries } from '../tar/index.js';
import { decodeHashes, decodePlacement, decodeProfile } from './columns.js';
import {
  Compression,
  FREE_RAW_LENGTH,
  HEADER,
  MAGIC,
  MAX_CHECKPOINT_STATE,
  MAX_RATIO,
  MAX_RAW_LENGTH,
  MAX_SPANS,
  REQUIRED_SECTIONS,
  SECTION_ENTRY_SIZE,
  SECTION_NAMES,
  SectionKind,
  type SectionName,
  VERSION,
} from './format.js';
import { decodeImageMeta } from './image-meta.js';
import { decodeReferences } from './references.js';
import { decodeSpans, decodeWindowIndex, spanFault, stateDigest } from './span-table.js';
import type { ArchiveStorage, FileHashes, ImageMeta, Profile, References, SpanTable } from './types.js';
import { archiveIdentity, assemble, imageSection } from './writer.js';

/** The source of an archive's bytes. */
export interface ArchiveInput {
  /** Named in errors: the archive's path. */
  readonly name: string;
  /** Length of the file in bytes. */
  readonly size: number;
  /** Exactly `length` bytes, or fewer at the end of the input; not overwritten by later calls. */
  readAt(offset: number, length: number): Uint8Array;
}

export interface SectionInfo {
  readonly name: SectionName;
  readonly offset: number;
  readonly storedLength: number;
  readonly rawLength: number;
  readonly compression: 'none' | 'deflate';
  readonly sha256: Uint8Array;
  readonly rawSha256: Uint8Array;
}

export interface Archive {
  /** Of the file's format: 1 for archives of the Go predecessor. */
  readonly version: number;
  readonly storage: ArchiveStorage;
  readonly image: ImageMeta;
  /** The EROFS image, in shared memory. Throws FormatError if it was to be read at its first use, and is damaged. */
  readonly tree: Uint8Array;
  readonly treeBytes: number;
  /** As image.layers; a layer that appears twice has the same table object twice. */
  readonly layers: readonly { readonly table: SpanTable }[];
  readonly placement: Placement | null;
  readonly profile: Profile | null;
  /** Digests of layers whose spans are not known yet: those of a version 1 archive that was never mounted. */
  readonly unindexed: readonly string[];
  /** The files that lead to others; null if there are none. Throws FormatError if they were to be read at their first use, and are damaged. */
  readonly references: References | null;
  /** "sha256:…"; two archives with the same identity show the same files (docs/format.md, "Identity"). */
  readonly identity: string;
  /**
   * "sha256:…" of header and section table. Two archives with the same digest are equal in all that is checked when they are opened;
   * their checkpoint states may differ, until `verify` has found both to be whole.
   */
  readonly digest: string;
  readonly sections: readonly SectionInfo[];
  /**
   * The checkpoint state of a span as it is stored, null where none is needed. It is not checked here but where it is used,
   * against the digest in the span table. Throws FormatError when the file has become shorter.
   */
  checkpointState(layer: LayerIndex, span: SpanIndex): Uint8Array | null;
  /** The raw bytes of a section, read and checked at each call; null for one that the archive lacks. Throws FormatError. */
  section(name: SectionName): Uint8Array | null;
  /** The entries of the tar of the only layer; null unless this is the index of a layer. Read and checked at each call. */
  entries(): EntryColumns | null;
  /** Null unless the archive was made with --hashes. Read and checked at each call. */
  hashes(): FileHashes | null;
  /** Reads the sections that are otherwise read in pieces, and checks their digests and each checkpoint state's. Throws FormatError. */
  verify(): void;
}

/** The least that an inode of the tree takes. */
const INODE_BYTES = 32;

/** `verify` reads the windows in pieces of this size, so that its memory does not depend on the section's. */
const VERIFY_CHUNK = 4 * 1024 * 1024;

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

const DAMAGED_HINT = 'the file is damaged or forged: make it again with clipctl index';

/** Damage has the same remedy in every section. */
function withHint<T>(open: () => T): T {
  try {
    return open();
  } catch (error) {
    if (!(error instanceof FormatError) || error.hint !== undefined) throw error;
    throw new FormatError(error.what, error.offset, error.detail, { hint: DAMAGED_HINT, cause: error.cause });
  }
}

const VERSION_HINTS: Readonly<Record<number, string>> = {
  1: "version 1 archives are the predecessor's",
  2: 'an older clip wrote it: make it again with clipctl index',
};

function readHeader(input: ArchiveInput): { sections: SectionInfo[]; digest: string } {
  const what = `${input.name}: header`;
  const fixed = new Cursor(input.readAt(0, Math.min(HEADER.table, input.size)), what);
  if (input.size < MAGIC.length || !sameBytes(fixed.bytes(MAGIC.length), MAGIC)) {
    throw new FormatError(what, 0, 'not a .clip archive (magic bytes missing)', {
      hint: 'make one with: clipctl index --image REF --out FILE',
    });
  }
  const version = fixed.u8();
  if (version !== VERSION) {
    throw new FormatError(what, HEADER.version, `version ${version}, ${VERSION} expected`, {
      hint: VERSION_HINTS[version] ?? 'it was written by a newer clip: update',
    });
  }
  if (fixed.u16() !== 0) fixed.fail('reserved bytes are not 0', HEADER.reserved);
  const count = fixed.u32();
  if (count > SECTION_NAMES.length)
    fixed.fail(`${count} sections, at most ${SECTION_NAMES.length} known`, HEADER.sectionCount);
  const expected = new Uint8Array(fixed.bytes(32));
  const prefix = new Uint8Array(input.readAt(0, HEADER.sha256));
  const tableBytes = input.readAt(HEADER.table, SECTION_ENTRY_SIZE * count);
  if (tableBytes.length !== SECTION_ENTRY_SIZE * count) fixed.fail('truncated in the section table', HEADER.table);
  if (!sameBytes(createHash('sha256').update(prefix).update(tableBytes).digest(), expected)) {
    fixed.fail('sha256 of the section table differs', HEADER.sha256);
  }
  return { sections: readTable(tableBytes, count, input.size, what), digest: `sha256:${toHex(expected)}` };
}

function readTable(bytes: Uint8Array, count: number, fileSize: number, what: string): SectionInfo[] {
  const table = new Cursor(bytes, what);
  const sections: SectionInfo[] = [];
  let end = HEADER.table + bytes.length;
  let lastKind = 0;
  for (let i = 0; i < count; i++) {
    const at = HEADER.table + table.offset;
    const kind = table.u32();
    const name = SECTION_NAMES.find((n) => SectionKind[n] === kind);
    if (name === undefined) return table.fail(`unknown section kind ${kind}`, at);
    if (kind <= lastKind) table.fail(`section ${name} out of order`, at);
    lastKind = kind;
    const compression = table.u32();
    if (compression !== Compression.none && compression !== Compression.deflate) {
      table.fail(`section ${name}: unknown compression ${compression}`, at + 4);
    }
    const [offset, storedLength, rawLength] = [table.uint53(), table.uint53(), table.uint53()];
    if (offset !== end) table.fail(`section ${name} at ${offset}, ${end} expected`, at + 8);
    end += storedLength;
    if (end > fileSize)
      table.fail(`section ${name} ends at byte ${end}, but the file has ${fileSize}: truncated`, at + 16);
    if (compression === Compression.none && rawLength !== storedLength) {
      table.fail(`section ${name}: ${rawLength} raw bytes cannot come from ${storedLength} stored ones`, at + 24);
    }
    if (rawLength > FREE_RAW_LENGTH + storedLength * MAX_RATIO) {
      table.fail(`section ${name}: ${rawLength} raw bytes are too many for ${storedLength} stored ones`, at + 24);
    }
    if (rawLength > MAX_RAW_LENGTH[name]) {
      table.fail(`section ${name}: ${rawLength} raw bytes, at most ${MAX_RAW_LENGTH[name]} allowed`, at + 24);
    }
    if (name === 'windows' && compression !== Compression.none)
      table.fail('section windows must not be compressed', at + 4);
    const [sha256, rawSha256] = [new Uint8Array(table.bytes(32)), new Uint8Array(table.bytes(32))];
    if (compression === Compression.none && !sameBytes(sha256, rawSha256)) {
      table.fail(`section ${name} is stored as it is, but its two digests differ`, at + 32);
    }
    sections.push({
      name,
      offset,
      storedLength,
      rawLength,
      compression: compression === Compression.none ? 'none' : 'deflate',
      sha256,
      rawSha256,
    });
  }
  if (end !== fileSize) table.fail(`${fileSize - end} bytes after the last section`, end);
  for (const name of REQUIRED_SECTIONS) {
    if (!sections.some((s) => s.name === name)) table.fail(`section ${name} is missing`, HEADER.table);
  }
  return sections;
}

/** A section as it is stored, checked. */
function readStored(input: ArchiveInput, section: SectionInfo): Uint8Array {
  const stored = input.readAt(section.offset, section.storedLength);
  const fault =
    stored.length !== section.storedLength
      ? 'truncated'
      : sameBytes(createHash('sha256').update(stored).digest(), section.sha256)
        ? null
        : 'sha256 differs';
  if (fault === null) return stored;
  throw new FormatError(`${input.name}: section ${section.name}`, section.offset, fault, { hint: DAMAGED_HINT });
}

/** A section's raw bytes, checked twice: as stored before they are inflated, and as inflated. */
function readSection(input: ArchiveInput, section: SectionInfo): Uint8Array {
  const what = `${input.name}: section ${section.name}`;
  const fail = (detail: string, cause?: unknown): never => {
    throw new FormatError(what, section.offset, detail, {
      cause,
      hint: DAMAGED_HINT,
    });
  };
  const stored = readStored(input, section);
  if (section.compression === 'none') return stored;
  let raw: Uint8Array;
  try {
    // A chunk as long as the result: zlib's wrapper then joins no pieces (docs/benchmarks.md, "Why these constants"). A byte
    // more keeps it from making a second chunk.
    const chunkSize = Math.max(64, section.rawLength + 1);
    raw = inflateRawSync(stored, { maxOutputLength: chunkSize, chunkSize });
  } catch (cause) {
    return fail('does not inflate', cause);
  }
  if (raw.length !== section.rawLength) fail(`${raw.length} bytes inflated, ${section.rawLength} expected`);
  if (!sameBytes(createHash('sha256').update(raw).digest(), section.rawSha256)) fail('sha256 of the raw bytes differs');
  return raw;
}

/** An archive's digest (see `Archive`), from its header alone. @throws FormatError */
export function readDigest(input: ArchiveInput): string {
  return withHint(() => readHeader(input).digest);
}

/** The image section of an archive, without reading the rest of it. Throws FormatError as `openArchive` does. */
export function readImageMeta(input: ArchiveInput): ImageMeta {
  return withHint(() => {
    const section = readHeader(input).sections.find((s) => s.name === 'image')!; // required: readTable has checked it
    return decodeImageMeta(readSection(input, section), `${input.name}: section image`);
  });
}

/**
 * The archive with another place of its layers, as buffers to be written one after the other; all other sections are the same
 * bytes. Throws FormatError as `openArchive` does.
 */
export function relocateArchive(
  input: ArchiveInput,
  place: Pick<ImageMeta, 'reference' | 'registry' | 'repository'>,
): Uint8Array[] {
  return withHint(() => {
    const sections = readHeader(input).sections.map((section) => {
      if (section.name === 'image') return imageSection({ ...readImageMeta(input), ...place });
      const { name, rawLength, rawSha256 } = section;
      const compression = section.compression === 'none' ? Compression.none : Compression.deflate;
      return { name, compression, stored: [readStored(input, section)], rawLength, rawSha256 };
    });
    return assemble(sections).parts;
  });
}

export interface OpenOptions {
  /** The tree, too, is read and checked at its first use: where another copy of it serves the image, it may never be needed. */
  readonly treeOnUse?: boolean;
  /** So are the references: numbers, thousands of them, that V8 reads slowly in a process that has just begun. A start by a profile needs none. */
  readonly referencesOnUse?: boolean;
}

/**
 * Opens an archive: reads and checks the header and every section but `windows` and `hashes`, which are checked when used.
 * Throws FormatError naming the file and the section for each deviation from docs/format.md.
 */
export function openArchive(input: ArchiveInput, options: OpenOptions = {}): Archive {
  return withHint(() => open(input, options));
}

function open(input: ArchiveInput, { treeOnUse = false, referencesOnUse = false }: OpenOptions): Archive {
  const { sections, digest } = readHeader(input);
  const find = (name: SectionName) => sections.find((s) => s.name === name);
  const required = (name: SectionName): SectionInfo => find(name)!; // readTable has checked it
  const what = (name: SectionName) => `${input.name}: section ${name}`;
  const raw = (name: SectionName) => readSection(input, required(name));

  const image = decodeImageMeta(raw('image'), what('image'));
  const windows = required('windows');
  const { tables, tableOfLayer } = decodeSpans(raw('spans'), what('spans'));
  const joined = decodeWindowIndex(
    raw('windowIndex'),
    what('windowIndex'),
    tables,
    windows.rawLength,
    MAX_CHECKPOINT_STATE,
  );
  const layers = tableOfLayer.map((index) => ({ table: joined[index]! }));
  checkLayers(image, layers, what('spans'));

  let tree: Uint8Array | null = null;
  const readTree = (): Uint8Array => {
    const bytes = raw('tree');
    tree = new Uint8Array(new SharedArrayBuffer(bytes.length));
    tree.set(bytes);
    return tree;
  };
  if (!treeOnUse) readTree();

  const optional = <T>(name: SectionName, decode: (bytes: Uint8Array, what: string) => T): T | null => {
    const section = find(name);
    return section === undefined ? null : decode(readSection(input, section), what(name));
  };
  /** undefined: not read yet. */
  let references: References | null | undefined;
  const readReferences = (): References | null => {
    const files = required('tree').rawLength / INODE_BYTES;
    references = optional('references', (bytes, w) => decodeReferences(bytes, w, files));
    return references;
  };
  if (!referencesOnUse) readReferences();
  const sizes = image.layers.map((layer) => layer.uncompressedSize);
  const counts = layers.map((layer) => layer.table.count);
  const checkpointState = (layer: LayerIndex, span: SpanIndex): Uint8Array | null => {
    const table = layers[layer]?.table;
    const length = table?.windowLength[span];
    if (table === undefined || length === undefined) throw new RangeError(`no span ${span} in layer ${layer}`);
    if (length === 0) return null;
    const at = windows.offset + table.windowPosition[span]!;
    const stored = input.readAt(at, length);
    if (stored.length !== length) throw new FormatError(what('windows'), at, 'truncated', { hint: DAMAGED_HINT });
    return stored;
  };
  return {
    version: VERSION,
    unindexed: [],
    storage: { kind: 'oci' },
    image,
    get tree() {
      return tree ?? withHint(readTree);
    },
    treeBytes: required('tree').rawLength,
    layers,
    placement: optional('placement', (bytes, w) => decodePlacement(bytes, w, sizes)),
    profile: optional('profile', (bytes, w) => decodeProfile(bytes, w, counts)),
    get references() {
      return references === undefined ? withHint(readReferences) : references;
    },
    identity: archiveIdentity(sections),
    digest,
    sections,
    checkpointState,
    section: (name) => withHint(() => optional(name, (bytes) => bytes)),
    entries: () => withHint(() => optional('entries', (bytes, w) => unpackEntries(bytes, w, sizes[0] ?? 0))),
    hashes: () => optional('hashes', decodeHashes),
    verify() {
      const hash = createHash('sha256');
      for (let at = 0; at < windows.storedLength; at += VERIFY_CHUNK) {
        hash.update(input.readAt(windows.offset + at, Math.min(VERIFY_CHUNK, windows.storedLength - at)));
      }
      if (!sameBytes(hash.digest(), windows.sha256)) {
        throw new FormatError(what('windows'), windows.offset, 'sha256 differs', { hint: DAMAGED_HINT });
      }
      for (const [layer, { table }] of layers.entries()) {
        for (let span = 0; span < table.count; span++) {
          const stored = checkpointState(layer, span);
          if (stored === null) continue;
          const at = windows.offset + table.windowPosition[span]!;
          checkState({ stored, sha256: stateDigest(table, span) }, what('windows'), at);
        }
      }
      optional('hashes', decodeHashes);
    },
  };
}

/** @throws FormatError naming the section and where in the file the state lies */
function checkState(state: CheckpointState, what: string, at: number): void {
  try {
    decodeCheckpointState(state);
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    throw new FormatError(what, at, `${error.what}: ${error.detail}`, { hint: DAMAGED_HINT, cause: error });
  }
}

/** The spans of a layer must agree with the image section. */
function checkLayers(image: ImageMeta, layers: readonly { table: SpanTable }[], what: string): void {
  if (layers.length !== image.layers.length) {
    throw new FormatError(what, 0, `${layers.length} layers, but the image has ${image.layers.length}`);
  }
  let spans = 0;
  for (const [i, { table }] of layers.entries()) {
    const meta = image.layers[i]!;
    const end = table.layerOffset[table.count]!;
    if (end !== meta.uncompressedSize) {
      throw new FormatError(what, 0, `spans of layer ${meta.digest} end at ${end}, ${meta.uncompressedSize} expected`);
    }
    const fault = spanFault(table, meta.size);
    if (fault !== null) throw new FormatError(what, 0, `layer ${meta.digest}: ${fault}`);
    spans += table.count;
    if (spans > MAX_SPANS) throw new FormatError(what, 0, `more than ${MAX_SPANS} spans`);
  }
}
