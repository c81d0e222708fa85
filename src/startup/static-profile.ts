import type { ImageMeta, Profile } from '../archive/index.js';
import type { LayerIndex, Nid, SpanIndex } from '../bytes/index.js';
import { lowerBound } from '../bytes/index.js';
import { type ErofsReader, InodeView, mapFileRange, type Placement, resolvePath } from '../erofs/index.js';
import { type SpanLayers, SpanReader } from '../lazy/index.js';
import type { ImageSource } from '../oci/index.js';
import { type ElfNeeds, readElf } from './elf.js';
import { libraryCandidates, libraryDirectories } from './library-path.js';
import type { ElfFile } from './link-references.js';

/** At most this many files for one command, so that loops and hostile images end. */
const MAX_FILES = 256;
/** Of a larger file only the parts that are read here count: no start runs all of a 100 MB binary. */
const MAX_WHOLE_FILE = 8 * 1024 * 1024;
/** execve(2) reads at most this much of a script's first line. */
const SHEBANG_BYTES = 256;
/** Inflated spans that are kept while files are read. */
const KEPT_SPANS = 16;
/** Docker's PATH for an image that sets none. */
const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

interface Extent {
  readonly fileOffset: number;
  readonly layer: LayerIndex;
  readonly layerOffset: number;
  readonly length: number;
}

function strings(value: unknown): string[] {
  if (typeof value === 'string') return ['/bin/sh', '-c', value];
  return Array.isArray(value) ? value.filter((v): v is string => typeof v === 'string') : [];
}

/** Follows the files that starting the image's command opens, as kernel and dynamic loader do, and notes their spans. */
class Tracer {
  readonly #reader: ErofsReader;
  readonly #placement: Placement | null;
  readonly #elf: ReadonlyMap<number, ElfNeeds>;
  readonly #layers: SpanLayers;
  readonly #spans: SpanReader;
  readonly #signal: AbortSignal | undefined;
  readonly #libraryPath: readonly string[];
  readonly #inode = new InodeView();
  readonly #kept = new Map<string, Uint8Array>();
  readonly #visited = new Set<number>();
  /** "layer/span", in the order of first touch. */
  readonly #touched = new Set<string>();

  constructor(
    image: ImageMeta,
    reader: ErofsReader,
    placement: Placement | null,
    elf: readonly ElfFile[],
    layers: SpanLayers,
    source: Pick<ImageSource, 'fetchInto'>,
    signal: AbortSignal | undefined,
  ) {
    this.#reader = reader;
    this.#placement = placement;
    this.#elf = new Map(elf.map(({ nid, needs }) => [nid, needs]));
    this.#layers = layers;
    this.#spans = new SpanReader(layers, source);
    this.#signal = signal;
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
    let at = offset;
    mapFileRange(this.#reader, this.#placement, this.#inode, nid, offset, length, (layer, layerOffset, n) => {
      if (layer >= 0) extents.push({ fileOffset: at, layer, layerOffset, length: n });
      at += n;
    });
    return extents;
  }

  /** Spans of a stretch of a layer: first and last. */
  #spansOf({ layer, layerOffset, length }: Extent): [number, number] {
    const { table } = this.#layers.layers[layer]!;
    const span = (offset: number): number => {
      const i = lowerBound(table.layerOffset, offset);
      return table.layerOffset[i] === offset ? i : i - 1;
    };
    return [span(layerOffset), span(layerOffset + length - 1)];
  }

  #touch(nid: Nid, offset: number, length: number): Extent[] {
    const extents = this.#extents(nid, offset, length);
    for (const extent of extents) {
      const [first, last] = this.#spansOf(extent);
      for (let span = first; span <= last; span++) this.#touched.add(`${extent.layer}/${span}`);
    }
    return extents;
  }

  async #span(layer: LayerIndex, span: SpanIndex): Promise<Uint8Array> {
    const key = `${layer}/${span}`;
    let bytes = this.#kept.get(key);
    if (bytes === undefined) {
      bytes = await this.#spans.read(layer, span, this.#signal);
      if (this.#kept.size >= KEPT_SPANS) this.#kept.delete(this.#kept.keys().next().value!);
      this.#kept.set(key, bytes);
    }
    return bytes;
  }

  async #read(nid: Nid, offset: number, length: number): Promise<Uint8Array> {
    this.#reader.inode(nid, this.#inode);
    const n = Math.max(0, Math.min(length, this.#inode.size - offset));
    const out = new Uint8Array(n);
    if (n === 0) return out;
    for (const extent of this.#touch(nid, offset, n)) {
      const [first, last] = this.#spansOf(extent);
      const { layerOffset } = this.#layers.layers[extent.layer]!.table;
      for (let span = first; span <= last; span++) {
        const from = Math.max(extent.layerOffset, layerOffset[span]!);
        const to = Math.min(extent.layerOffset + extent.length, layerOffset[span + 1]!);
        const bytes = await this.#span(extent.layer, span);
        const piece = bytes.subarray(from - layerOffset[span]!, to - layerOffset[span]!);
        out.set(piece, extent.fileOffset - offset + from - extent.layerOffset);
      }
    }
    return out;
  }

  /** A program or library that was read while its layer was indexed: it is not fetched, but its parts count as touched. */
  #known(nid: Nid, size: number): ElfNeeds | null {
    const needs = this.#elf.get(nid);
    if (needs === undefined || !needs.complete) return null;
    this.#touch(nid, 0, Math.min(SHEBANG_BYTES, size));
    for (let i = 0; i < needs.parts.length; i += 2) {
      if (needs.parts[i + 1]! > 0) this.#touch(nid, needs.parts[i]!, needs.parts[i + 1]!);
    }
    return needs;
  }

  /** A program, script or library, and the files that it needs to start. */
  async visit(path: string, search: (name: string) => string | null): Promise<void> {
    const nid = this.resolve(path);
    if (nid < 0 || this.#visited.has(nid) || this.#visited.size >= MAX_FILES) return;
    this.#visited.add(nid);
    const { size } = this.#inode;
    const known = this.#known(nid, size);
    const line =
      known !== null
        ? ''
        : Buffer.from(await this.#read(nid, 0, SHEBANG_BYTES))
            .toString('latin1')
            .split('\n')[0]!;
    if (line.startsWith('#!')) {
      const [interpreter = '', ...words] = line
        .slice(2)
        .trim()
        .split(/[ \t]+/);
      await this.visit(interpreter, search);
      // env(1): the first word that is neither an option nor an assignment.
      const program = /\/env$/.test(interpreter)
        ? words.find((w) => !w.startsWith('-') && !w.includes('='))
        : undefined;
      const found = program === undefined ? null : search(program);
      if (found !== null) await this.visit(found, search);
      this.#touch(nid, 0, size);
      return;
    }
    const elf = known ?? (await readElf((offset, length) => this.#read(nid, offset, length)));
    if (elf?.interpreter) await this.visit(elf.interpreter, search);
    const origin = path.slice(0, Math.max(1, path.lastIndexOf('/')));
    for (const name of elf?.needed ?? []) {
      const candidates = libraryCandidates(name, elf!.searchPath, origin, this.#libraryPath);
      const library = candidates.find((candidate) => this.resolve(candidate) >= 0);
      if (library !== undefined) await this.visit(library, search);
    }
    if (size <= MAX_WHOLE_FILE) this.#touch(nid, 0, size);
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
 * Spans that starting the image's entrypoint and command reads, derived from the files themselves: the program found through
 * PATH, symlinks, `#!` lines, the ELF interpreter and all libraries. Null for an image without a command, or with a program in a
 * layer that can only be read from its start. Files that are not among `elf` are fetched and read.
 */
export async function staticProfile(
  image: ImageMeta,
  reader: ErofsReader,
  placement: Placement | null,
  elf: readonly ElfFile[],
  layers: SpanLayers,
  source: Pick<ImageSource, 'fetchInto'>,
  signal?: AbortSignal,
): Promise<Profile | null> {
  if (layers.layers.some(({ table }) => table.kind === 'zstd-stream')) return null;
  const config = (image.config.config ?? {}) as Record<string, unknown>;
  const argv = [...strings(config.Entrypoint), ...strings(config.Cmd)];
  if (argv.length === 0) return null;
  const environment = strings(config.Env);
  const searchPath = environment.find((v) => v.startsWith('PATH='))?.slice('PATH='.length) ?? DEFAULT_PATH;
  const directory = typeof config.WorkingDir === 'string' && config.WorkingDir !== '' ? config.WorkingDir : '/';
  const tracer = new Tracer(image, reader, placement, elf, layers, source, signal);
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
  if (program !== null) await tracer.visit(program, search);
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
    if (found !== null) await tracer.visit(found, search);
  }
  return tracer.profile();
}
