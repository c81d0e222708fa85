import { readFileSync } from 'node:fs';
import { deflateRawSync } from 'node:zlib';
import { FilePaths } from '../archives/index.js';
import { lowerBound } from '../bytes/index.js';
import type { JourneyReply } from '../wire/index.js';
import { summaryOf } from './advice.js';

/** Names that a span of the map shows. */
const NAMES_OF_SPAN = 3;
const TOP_FILES = 50;

/** Made by the build: the page with everything but the data. */
const template = (): string => readFileSync(new URL('./report.html', import.meta.url), 'utf8');

/** A page that needs no other file. */
export function journeyPage(journey: JourneyReply): string {
  const paths = pathsOf(journey);
  const { reads, fetches } = journey.columns;
  const order = Array.from(reads.at.keys()).sort((a, b) => reads.at[a]! - reads.at[b]!);
  const files = new Map<number, { index: number; reads: number; waited: number; bytes: number }>();
  for (const i of order) {
    const nid = reads.nid[i]!;
    let file = files.get(nid);
    if (file === undefined) {
      file = { index: files.size, reads: 0, waited: 0, bytes: 0 };
      files.set(nid, file);
    }
    file.reads++;
    file.waited += reads.took[i]!;
    file.bytes += reads.length[i]!;
  }
  const head = {
    reference: journey.reference,
    archivePath: journey.archivePath,
    places: journey.places,
    mountedAt: journey.mountedAt,
    endedAt: journey.endedAt,
    marks: marksOf(journey),
    sources: journey.columns.sources,
    droppedReads: journey.columns.droppedReads,
    droppedFetches: journey.columns.droppedFetches,
    summary: summaryOf(journey),
    files: [...files.keys()].map((nid) => paths?.path(nid) ?? `inode ${nid}`),
    top: [...files.values()]
      .sort((a, b) => b.waited - a.waited)
      .slice(0, TOP_FILES)
      .map(({ index, reads, waited, bytes }) => [index, reads, Math.round(waited * 10) / 10, bytes]),
    layers: journey.layers.map(({ digest, size, uncompressedSize, ends, fates }, i) => ({
      digest,
      size,
      uncompressedSize,
      // Each as the length of its span, which is short and mostly the same.
      spans: ends.map((end, span) => end - (ends[span - 1] ?? 0)),
      fates: fates.join(''),
      names: paths === null ? {} : namesOf(i, ends, files, paths),
    })),
    fetches: {
      ...fetches,
      at: fetches.at.map(tenths),
      took: fetches.took.map(tenths),
    },
    reads: order.length,
  };
  const columns = [
    Float32Array.from(order, (i) => reads.at[i]!),
    Float32Array.from(order, (i) => reads.took[i]!),
    Uint32Array.from(order, (i) => files.get(reads.nid[i]!)!.index),
    Uint32Array.from(order, (i) => reads.length[i]!),
    Float64Array.from(order, (i) => reads.offset[i]!),
    Int8Array.from(order, (i) => reads.source[i]!),
  ];
  const json = Buffer.from(JSON.stringify(head));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(json.length);
  const bytes = [length, json, ...columns.map(({ buffer }) => Buffer.from(buffer))];
  const data = deflateRawSync(Buffer.concat(bytes), { level: 9 }).toString('base64');
  // As a function: the data has no "$", the names of the image may.
  return template()
    .replace('@DATA@', () => data) // first: the title may be that word
    .replaceAll('@TITLE@', () => escapeHtml(journey.reference));
}

/** What the plots mark in time: [milliseconds since the mount, name]. */
function marksOf({ firstExec, firstOutput }: JourneyReply): [number, string][] {
  const marks: [number, string][] = [];
  // A journey that was kept before these were noted has none.
  if (typeof firstExec === 'number') marks.push([firstExec, 'first exec']);
  if (typeof firstOutput === 'number') marks.push([firstOutput, 'first output']);
  return marks;
}

const tenths = (value: number): number => Math.round(value * 10) / 10;

function escapeHtml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

/** Null: the archive is not there any more, or another one is. */
function pathsOf({ archivePath, identity }: JourneyReply): FilePaths | null {
  try {
    const paths = FilePaths.open(archivePath);
    return paths.identity === identity ? paths : null;
  } catch {
    return null;
  }
}

/** By span of a layer: the first files that were read and have bytes in it, as indices of `files`. */
function namesOf(
  layer: number,
  ends: readonly number[],
  files: ReadonlyMap<number, { readonly index: number }>,
  paths: FilePaths,
): Record<number, number[]> {
  const offsets = Float64Array.from(ends);
  const names: Record<number, number[]> = {};
  for (const [nid, { index }] of files) {
    paths.visitPieces(nid, (at, offset, length) => {
      if (at !== layer) return;
      // The span that ends behind the offset.
      for (let span = lowerBound(offsets, offset + 1); span < ends.length; span++) {
        names[span] ??= [];
        const list = names[span]!;
        if (list.length < NAMES_OF_SPAN && !list.includes(index)) list.push(index);
        if (ends[span]! >= offset + length) break;
      }
    });
  }
  return names;
}
