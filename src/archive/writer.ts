import { createHash } from 'node:crypto';
import { promisify } from 'node:util';
import { constants, deflateRaw, deflateRawSync, type ZlibOptions } from 'node:zlib';
import type { Placement } from '../erofs/index.js';
import { encodeHashes, encodePlacement, encodeProfile } from './columns.js';
import { ByteWriter } from './encode.js';
import {
  Compression,
  FREE_RAW_LENGTH,
  HEADER,
  IDENTITY_SECTIONS,
  MAGIC,
  MAX_CHECKPOINT_STATE,
  MAX_RATIO,
  SECTION_ENTRY_SIZE,
  SECTION_NAMES,
  SectionKind,
  type SectionName,
  VERSION,
} from './format.js';
import { encodeImageMeta } from './image-meta.js';
import { encodeReferences } from './references.js';
import { encodeSpans, encodeWindowIndex, type SpanColumns, spanTableDigest } from './span-table.js';
import type { FileHashes, ImageMeta, Profile, References } from './types.js';

export interface LayerContents {
  readonly spans: SpanColumns;
  /** The checkpoint state of each span as it is stored, empty where none is needed. `spans.stateSha256` has their digests. */
  readonly states: readonly Uint8Array[];
}

export interface ArchiveContents {
  readonly image: ImageMeta;
  /** The EROFS image. */
  readonly tree: Uint8Array;
  /** The same deflated, by {@link deflateSection}, if that was done beside other work. */
  readonly storedTree?: readonly Uint8Array[];
  /** As image.layers. A layer that appears twice may be the same object twice. */
  readonly layers: readonly LayerContents[];
  readonly hashes?: FileHashes | null;
  readonly placement?: Placement | null;
  readonly profile?: Profile | null;
  readonly references?: References | null;
  /**
   * In the index of a single layer: the entries of its tar, by tar/, and what was seen in its files, whose form is index/'s.
   */
  readonly entries?: StoredSection;
  readonly scan?: StoredSection;
}

/** A large section, and the same deflated by {@link deflateSection}. */
export interface StoredSection {
  readonly raw: Uint8Array;
  readonly stored: readonly Uint8Array[];
}

/** A section as it is stored. */
export interface Section {
  readonly name: SectionName;
  readonly compression: number;
  readonly stored: readonly Uint8Array[];
  readonly rawLength: number;
  readonly rawSha256: Uint8Array;
}

function sha256(parts: Iterable<Uint8Array>): Uint8Array {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest();
}

function totalLength(parts: readonly Uint8Array[]): number {
  return parts.reduce((sum, part) => sum + part.length, 0);
}

function deflated(name: SectionName, raw: Uint8Array, stored: readonly Uint8Array[] = [deflate(raw)]): Section {
  if (raw.length > FREE_RAW_LENGTH + totalLength(stored) * MAX_RATIO) return plain(name, [raw]);
  return { name, compression: Compression.deflate, stored, rawLength: raw.length, rawSha256: sha256([raw]) };
}

function plain(name: SectionName, raw: readonly Uint8Array[]): Section {
  return { name, compression: Compression.none, stored: raw, rawLength: totalLength(raw), rawSha256: sha256(raw) };
}

/** How sections are deflated: higher levels take much longer and save little (docs/benchmarks.md, "Why these constants"). */
const DEFLATE = { level: 4, memLevel: 9, strategy: constants.Z_DEFAULT_STRATEGY } as const;

function deflate(raw: Uint8Array): Uint8Array {
  return deflateRawSync(raw, DEFLATE);
}

/** A large section is deflated in this many stretches side by side. */
const STRETCHES = 4;
/** The distance that deflate refers back. */
const WINDOW = 32768;

/** Each stretch may refer to the data before it, and all but the last end on a byte without ending the stream, so that together they are one stream. */
function stretchesOf(raw: Uint8Array): [bytes: Uint8Array, options: ZlibOptions][] {
  const length = Math.ceil(raw.length / STRETCHES);
  return Array.from({ length: STRETCHES }, (_, i) => {
    const [from, to] = [Math.min(i * length, raw.length), Math.min((i + 1) * length, raw.length)];
    const finishFlush = i === STRETCHES - 1 ? constants.Z_FINISH : constants.Z_SYNC_FLUSH;
    const before = raw.subarray(Math.max(0, from - WINDOW), from);
    return [raw.subarray(from, to), { ...DEFLATE, finishFlush, ...(before.length > 0 && { dictionary: before }) }];
  });
}

const deflateInPool = promisify<Uint8Array, ZlibOptions, Uint8Array>(deflateRaw);

/** Deflates a large section, a tree or entries, as it is stored, on other threads. */
export function deflateSection(raw: Uint8Array): Promise<Uint8Array[]> {
  return Promise.all(
    stretchesOf(raw).map(([bytes, options]) => {
      // Room for the whole output: for more room a stretch would wait for this thread, which is busy meanwhile.
      return deflateInPool(bytes, { ...options, chunkSize: 4096 + Math.ceil(bytes.length / 2) });
    }),
  );
}

function sectionsOf(contents: ArchiveContents): Section[] {
  const tables: LayerContents[] = [];
  const indexOf = new Map<string, number>();
  const tableOfLayer = contents.layers.map((layer) => {
    if (layer.states.length !== layer.spans.count) throw new RangeError('as many checkpoint states as spans expected');
    const key = spanTableDigest(layer.spans);
    const known = indexOf.get(key);
    if (known !== undefined) return known;
    indexOf.set(key, tables.length);
    return tables.push(layer) - 1;
  });
  const states = tables.map((table) => table.states);
  const windows = states.flat().filter((state) => state.length > 0);
  if (windows.some((state) => state.length > MAX_CHECKPOINT_STATE)) throw new RangeError('checkpoint state too long');
  const storedTree =
    contents.storedTree ?? stretchesOf(contents.tree).map(([bytes, options]) => deflateRawSync(bytes, options));
  const sections: Section[] = [
    imageSection(contents.image),
    deflated('tree', contents.tree, storedTree),
    deflated(
      'spans',
      encodeSpans(
        tables.map((table) => table.spans),
        tableOfLayer,
      ),
    ),
    deflated('windowIndex', encodeWindowIndex(states)),
    plain('windows', windows),
  ];
  if (contents.hashes) sections.push(plain('hashes', [encodeHashes(contents.hashes)]));
  if (contents.placement) sections.push(deflated('placement', encodePlacement(contents.placement)));
  if (contents.profile) sections.push(deflated('profile', encodeProfile(contents.profile)));
  if (contents.references) sections.push(deflated('references', encodeReferences(contents.references)));
  if (contents.entries) sections.push(deflated('entries', contents.entries.raw, contents.entries.stored));
  if (contents.scan) sections.push(deflated('scan', contents.scan.raw, contents.scan.stored));
  return sections;
}

/** Two archives with the same identity show the same files and bytes: "sha256:…" (docs/format.md, "Identity"). */
export function archiveIdentity(
  sections: Iterable<{ name: SectionName; rawLength: number; rawSha256: Uint8Array }>,
): string {
  const out = new ByteWriter(512);
  for (const section of sections) {
    if (!IDENTITY_SECTIONS.includes(section.name)) continue;
    out.u32(SectionKind[section.name]);
    out.u64(section.rawLength);
    out.bytes(section.rawSha256);
  }
  return `sha256:${createHash('sha256').update(out.finish()).digest('hex')}`;
}

/**
 * The archive as a list of buffers to be written one after the other. Pure and deterministic: the same contents give the
 * same raw sections; the stored bytes depend on zlib too.
 */
export function writeArchive(contents: ArchiveContents): Uint8Array[] {
  return buildArchive(contents).parts;
}

/** writeArchive, and the archive's identity. */
export function buildArchive(contents: ArchiveContents): { parts: Uint8Array[]; identity: string } {
  if (contents.layers.length !== contents.image.layers.length) throw new RangeError('layers and image.layers differ');
  return assemble(sectionsOf(contents));
}

/** The image section, which is stored first. */
export function imageSection(image: ImageMeta): Section {
  return deflated('image', encodeImageMeta(image));
}

/** Header, section table and sections, which are in the order of their kinds. */
export function assemble(sections: readonly Section[]): { parts: Uint8Array[]; identity: string } {
  const table = new ByteWriter(SECTION_ENTRY_SIZE * SECTION_NAMES.length);
  let offset = HEADER.table + SECTION_ENTRY_SIZE * sections.length;
  for (const section of sections) {
    const storedLength = totalLength(section.stored);
    table.u32(SectionKind[section.name]);
    table.u32(section.compression);
    table.u64(offset);
    table.u64(storedLength);
    table.u64(section.rawLength);
    table.bytes(sha256(section.stored));
    table.bytes(section.rawSha256);
    offset += storedLength;
  }
  const header = new ByteWriter(HEADER.table + table.length);
  header.bytes(MAGIC);
  header.u8(VERSION);
  header.u16(0);
  header.u32(sections.length);
  header.bytes(sha256([header.finish(), table.finish()]));
  header.bytes(table.finish());
  const parts = [header.finish(), ...sections.flatMap((section) => section.stored)];
  return { parts, identity: archiveIdentity(sections) };
}
