import type { ImageMeta, Profile, SpanColumns } from '../archive/index.js';
import type { Nid } from '../bytes/index.js';
import { lowerBound } from '../bytes/index.js';
import { type ErofsReader, firstByte, InodeView, mapFileRange, type Placement, resolvePath } from '../erofs/index.js';
import type { ElfNeeds } from './elf.js';
import { libraryCandidates, libraryDirectories } from './library-path.js';
import type { ScannedLayer } from './link-references.js';
import { SCRIPT_LINE_BYTES } from './script-lines.js';

/** At most this many files for one command, so that loops and hostile images end. */
const MAX_FILES = 256;
/** Of a larger file only the parts that are read here count: no start runs all of a 100 MB binary. */
const MAX_WHOLE_FILE = 8 * 1024 * 1024;
/** What is run most often in an image without a command. It, the loader, the C library and its cache of names are what nearly all starts read. */
const USUAL_COMMAND = ['/bin/sh'];
/** Docker's PATH for an image that sets none. */
const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** The dynamic loader's cache of the names of libraries. */
const LOADER_CACHE = '/etc/ld.so.cache';

interface Extent {
  readonly layer: number;
  readonly layerOffset: number;
  readonly length: number;
}

/** A layer whose files were looked at while it was indexed, and its spans. */
export interface TracedLayer extends ScannedLayer {
  readonly contents: { readonly spans: Pick<SpanColumns, 'kind' | 'layerOffset'> };
}

/** A program's or library's needs, or a script's first line. */
type Start = ElfNeeds | string;

function strings(value: unknown): string[] {
  if (typeof value === 'string') return ['/bin/sh', '-c', value];
  return Array.isArray(value) ? value.filter((v): v is string => typeof v === 'string') : [];
}

/** The beginnings of a layer's programs and scripts, by the layer offset of their data. */
function startsOf({ entries, references }: ScannedLayer): Map<number, Start> {
  const starts = new Map<number, Start>();
  for (const { entry, line } of references.scripts) starts.set(entries.dataOffset(entry), line);
  for (const { entry, needs } of references.elf) starts.set(entries.dataOffset(entry), needs);
  return starts;
}

/** Follows the files that starting the image's command opens, as kernel and dynamic loader do, and notes their spans. */
class Tracer {
  readonly #reader: ErofsReader;
  readonly #placement: Placement | null;
  readonly #layers: readonly TracedLayer[];
  readonly #starts: readonly Map<number, Start>[];
  readonly #libraryPath: readonly string[];
  readonly #inode = new InodeView();
  readonly #visited = new Set<number>();
  /** "layer/span", in the order of first touch. */
  readonly #touched = new Set<string>();

  constructor(image: ImageMeta, reader: ErofsReader, placement: Placement | null, layers: readonly TracedLayer[]) {
    this.#reader = reader;
    this.#placement = placement;
    this.#layers = layers;
    this.#starts = layers.map(startsOf);
    this.#libraryPath = libraryDirectories(image.platform.architecture);
  }

  resolve(path: string): number {
    const nid = resolvePath(this.#reader, Buffer.from(path, 'latin1'), true);
    if (nid < 0) return -1;
    this.#reader.inode(nid, this.#inode);
    return this.#inode.isFile ? nid : -1;
  }

  #extents(nid: Nid, offset: number, length: number): Extent[] {
    const extents: Extent[] = [];
    mapFileRange(this.#reader, this.#placement, this.#inode, nid, offset, length, (layer, layerOffset, n) => {
      if (layer >= 0) extents.push({ layer, layerOffset, length: n });
    });
    return extents;
  }

  /** Spans of a stretch of a layer: first and last. */
  #spansOf({ layer, layerOffset, length }: Extent): [number, number] {
    const starts = this.#layers[layer]!.contents.spans.layerOffset;
    const span = (offset: number): number => {
      const i = lowerBound(starts, offset);
      return starts[i] === offset ? i : i - 1;
    };
    return [span(layerOffset), span(layerOffset + length - 1)];
  }

  #touch(nid: Nid, offset: number, length: number): void {
    this.#reader.inode(nid, this.#inode);
    const n = Math.max(0, Math.min(length, this.#inode.size - offset));
    if (n === 0) return;
    for (const extent of this.#extents(nid, offset, n)) {
      const [first, last] = this.#spansOf(extent);
      for (let span = first; span <= last; span++) this.#touched.add(`${extent.layer}/${span}`);
    }
  }

  /** How a file begins, as far as that matters; null for one that is neither a program nor a script. */
  #start(nid: Nid, size: number): Start | null {
    const place = firstByte(this.#reader, this.#placement, nid, size);
    return place === null ? null : (this.#starts[place.layer]!.get(place.layerOffset) ?? null);
  }

  /** A program, script or library, and the files that it needs to start. */
  visit(path: string, search: (name: string) => string | null): void {
    const nid = this.resolve(path);
    if (nid < 0 || this.#visited.has(nid) || this.#visited.size >= MAX_FILES) return;
    this.#visited.add(nid);
    const { size } = this.#inode;
    const start = this.#start(nid, size);
    this.#touch(nid, 0, SCRIPT_LINE_BYTES);
    if (typeof start === 'string') this.#visitInterpreter(start, search);
    else if (start !== null) this.#visitLibraries(nid, path, start, search);
    if (typeof start === 'string' || size <= MAX_WHOLE_FILE) this.#touch(nid, 0, size);
  }

  #visitInterpreter(line: string, search: (name: string) => string | null): void {
    const [interpreter = '', ...words] = line
      .slice(2)
      .trim()
      .split(/[ \t]+/);
    this.visit(interpreter, search);
    // env(1): the first word that is neither an option nor an assignment.
    const program = /\/env$/.test(interpreter) ? words.find((w) => !w.startsWith('-') && !w.includes('=')) : undefined;
    const found = program === undefined ? null : search(program);
    if (found !== null) this.visit(found, search);
  }

  #visitLibraries(nid: number, path: string, needs: ElfNeeds, search: (name: string) => string | null): void {
    // The parts that the loader reads first.
    for (let i = 0; i < needs.parts.length; i += 2) this.#touch(nid, needs.parts[i]!, needs.parts[i + 1]!);
    if (needs.interpreter) {
      this.visit(needs.interpreter, search);
      this.visit(LOADER_CACHE, search);
    }
    const origin = path.slice(0, Math.max(1, path.lastIndexOf('/')));
    for (const name of needs.needed) {
      const candidates = libraryCandidates(name, needs.searchPath, origin, this.#libraryPath);
      const library = candidates.find((candidate) => this.resolve(candidate) >= 0);
      if (library !== undefined) this.visit(library, search);
    }
  }

  profile(): Profile | null {
    const touched = [...this.#touched].map((key) => key.split('/').map(Number) as [number, number]);
    if (touched.length === 0) return null;
    return {
      source: 'static',
      layer: Uint32Array.from(touched, ([layer]) => layer),
      span: Uint32Array.from(touched, ([, span]) => span),
    };
  }
}

/**
 * Spans that starting the image's entrypoint and command reads: the program found through PATH, symlinks, `#!` lines, the ELF
 * interpreter and all libraries, as they were seen while their layers were indexed. Those of the shell for an image without a command. Null
 * where there is no such program, or a layer that can only be read from its start.
 */
export function staticProfile(
  image: ImageMeta,
  reader: ErofsReader,
  placement: Placement | null,
  layers: readonly TracedLayer[],
): Profile | null {
  if (layers.some(({ contents }) => contents.spans.kind === 'zstd-stream')) return null;
  const config = (image.config.config ?? {}) as Record<string, unknown>;
  const own = [...strings(config.Entrypoint), ...strings(config.Cmd)];
  const argv = own.length > 0 ? own : USUAL_COMMAND;
  const environment = strings(config.Env);
  const searchPath = environment.find((v) => v.startsWith('PATH='))?.slice('PATH='.length) ?? DEFAULT_PATH;
  const directory = typeof config.WorkingDir === 'string' && config.WorkingDir !== '' ? config.WorkingDir : '/';
  const tracer = new Tracer(image, reader, placement, layers);
  const absolute = (path: string): string => (path.startsWith('/') ? path : `${directory}/${path}`);
  const search = (name: string): string | null => {
    if (name.includes('/')) return absolute(name);
    const found = searchPath
      .split(':')
      .map((part) => `${part}/${name}`)
      .find((path) => tracer.resolve(path) >= 0);
    return found ?? null;
  };
  const program = search(argv[0]!);
  if (program !== null) tracer.visit(program, search);
  for (const [i, word] of argv.entries()) {
    if (i === 0 || word.startsWith('-')) continue;
    // `sh -c "program …"`: its first word; `python app.py`: the script.
    const shell = argv[i - 1] === '-c' && /(^|\/)\w*sh$/.test(argv[i - 2] ?? '');
    const first = shell
      ? (word
          .trim()
          .replace(/^exec\s+/, '')
          .split(/\s+/)[0] ?? '')
      : word;
    const found = shell ? search(first) : absolute(first);
    if (found !== null) tracer.visit(found, search);
  }
  return tracer.profile();
}
