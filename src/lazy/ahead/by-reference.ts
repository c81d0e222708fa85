import { REFERENCE_PAGE, SEGMENT_START } from '../../archive/index.js';
import type { LayerIndex, Nid, SpanIndex } from '../../bytes/index.js';
import { lowerBound } from '../../bytes/index.js';
import type { TouchRecord } from '../../spans/index.js';
import { Priority } from '../inflate-tasks.js';
import type { FileStretch, FollowedImage, LayerPiece } from './followed-image.js';
import { LoadedLibraries } from './loaded-libraries.js';
import { OpenedFiles } from './opened-files.js';
import { mayBeReferred, type Reason } from './policy.js';

/** Of a file without ranges this much: what is larger is nothing that is loaded whole. */
const MAX_WHOLE_FILE = 8 * 1024 * 1024;
/** Of a file that a command names its beginning comes first: it may be data. */
const MAX_NAMED_FILE = 1024 * 1024;
/** How often it is looked how far readers have got: workers answer hits by themselves and do not tell. */
const POLL_MS = 4;
/** A reader that has read nothing of the fetched spans for this long has gone another way. */
const STALE_MS = 2000;
/** A miss after this long without one may be an evicted span. The files that it leads to may be evicted as well. */
const AGAIN_MS = 30_000;

const SEGMENT_PAGES = SEGMENT_START / REFERENCE_PAGE;

export interface ToldByFollower {
  /** A reader has come to this span. `known`: which was asked for because a reference leads there. */
  onRead(layer: LayerIndex, span: SpanIndex, known: boolean): void;
  /** A program was opened that has large segments. */
  onCode(nid: Nid, code: readonly FileStretch[]): void;
}

interface SpanOf {
  readonly layer: LayerIndex;
  readonly span: SpanIndex;
  /** Why it may wait less: default 'led to'. */
  readonly why?: Reason;
}

/**
 * Fetches what a file leads to when a reader waits for that file: the libraries of a program, the modules that a module imports,
 * and so on from each, in the order in which they will be read. One per mount, on the I/O thread.
 */
export class Follower {
  readonly #image: FollowedImage;
  /** Files that were followed. */
  readonly #known: Uint8Array;
  /** Per layer: spans that were counted as read. */
  readonly #counted: readonly Uint8Array[];
  /** What is to be done, the last first: files to follow (positions among the references), and spans to ask for. */
  readonly #todo: (number | SpanOf)[] = [];
  /** What loading touches of large libraries that were opened, the first first: surely, and likely. */
  readonly #loaded: [SpanOf[], SpanOf[]] = [[], []];
  readonly #libraries: LoadedLibraries;
  /** What was asked for and not read yet, per layer: span → compressed bytes. */
  readonly #unread: readonly Map<number, number>[];
  readonly #told: ToldByFollower;
  /** Files that readers have opened. */
  readonly #openedFiles: Uint8Array;
  #unreadBytes = 0;
  /** Inflated bytes that are on their way, and not in the cache yet. */
  #coming = 0;
  #readBytes = 0;
  #lastMiss = Number.NEGATIVE_INFINITY;
  #lastRead = 0;
  #timer: NodeJS.Timeout | null = null;
  #opened: OpenedFiles | null = null;
  #closed = false;

  constructor(image: FollowedImage, told: Partial<ToldByFollower> = {}) {
    this.#image = image;
    this.#told = { onRead: () => {}, onCode: () => {}, ...told };
    this.#known = new Uint8Array(image.references.count);
    this.#openedFiles = new Uint8Array(image.references.count);
    this.#counted = image.layers.map(({ layer }) => new Uint8Array(layer.spans.count));
    this.#unread = image.layers.map(() => new Map<number, number>());
    this.#libraries = new LoadedLibraries(image, (layer, span, surely) =>
      this.#loaded[surely ? 0 : 1].push(surely ? { layer, span, why: 'loaded' } : { layer, span }),
    );
  }

  /** Compressed bytes that were asked for and not read yet. */
  unreadBytes(): number {
    this.#look();
    return this.#unreadBytes;
  }

  /** From now on files are followed as well whose readers need not wait. @param touch  by layer index */
  watch(touch: readonly TouchRecord[]): void {
    this.#opened = new OpenedFiles(this.#image, touch);
  }

  /** A reader waits for bytes of a file, which lie in these pieces. */
  onMiss(nid: Nid, pieces: readonly LayerPiece[]): void {
    if (this.#closed) return;
    const now = performance.now();
    if (now - this.#lastMiss > AGAIN_MS) this.#known.fill(0);
    this.#lastMiss = now;
    this.#lastRead = now;
    this.#guard(() => {
      for (const piece of pieces) this.#spansOf(piece, (layer, span) => this.#countRead(layer, span));
      const file = this.#position(nid);
      if (file >= 0) this.#prefer(file);
      this.#advance();
    });
  }

  /** Files that will be read soon: they come before all else, and what they lead to before what other files lead to. */
  onNamed(files: () => readonly Nid[]): void {
    if (this.#closed) return;
    this.#lastRead = performance.now();
    this.#guard(() => {
      const named = [...files()].reverse();
      for (const nid of named) {
        const file = this.#position(nid);
        if (file >= 0) this.#todo.push(file);
      }
      for (const nid of named)
        this.#eachSpan(nid, 0, MAX_NAMED_FILE, (layer, span) => this.#todo.push({ layer, span, why: 'named' }));
      this.#advance();
    });
  }

  #guard(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.close();
      this.#image.onFault(error);
    }
  }

  /** What a file leads to that was opened comes before what files lead to that were not. */
  #prefer(file: number): void {
    this.#known[file] = 0;
    this.#todo.push(file);
    if (this.#openedFiles[file] === 1) return;
    this.#openedFiles[file] = 1;
    const { nid, firstRange } = this.#image.references;
    if (firstRange[file + 1]! > firstRange[file]!) this.#libraries.opened(nid[file]!);
    const code = this.#codeOf(file);
    if (code.length > 0) this.#told.onCode(nid[file]!, code);
  }

  /** The large segments of a program: their first pages and their last one are ranges that follow each other. */
  #codeOf(file: number): FileStretch[] {
    const { firstRange, range } = this.#image.references;
    const code: FileStretch[] = [];
    for (let i = firstRange[file]! + 2; i + 3 < firstRange[file + 1]!; i += 2) {
      const [first, pages, last, one] = [range[i]!, range[i + 1]!, range[i + 2]!, range[i + 3]!];
      if (pages < SEGMENT_PAGES || pages > SEGMENT_PAGES + 1 || one !== 1 || last < first + pages) continue;
      code.push({ offset: first * REFERENCE_PAGE, length: (last + 1 - first) * REFERENCE_PAGE });
    }
    return code;
  }

  /** Cancels spans that no reader has read; readers still get those they wait for. */
  close(): void {
    this.#closed = true;
    this.#stop();
    for (const [layer, spans] of this.#unread.entries()) {
      for (const span of spans.keys()) this.#image.layers[layer]!.layer.cancelAhead(span);
      spans.clear();
    }
  }

  #stop(): void {
    this.#todo.length = 0;
    for (const spans of this.#loaded) spans.length = 0;
    this.#libraries.clear();
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  /** Position of a file among the references; −1 when it has none. */
  #position(nid: Nid): number {
    const nids = this.#image.references.nid;
    const position = lowerBound(nids, nid);
    return nids[position] === nid ? position : -1;
  }

  #eachSpan(nid: Nid, offset: number, length: number, visit: (layer: LayerIndex, span: SpanIndex) => void): void {
    this.#image.map(nid, offset, length, (layer, layerOffset, bytes) => {
      this.#spansOf({ layer, layerOffset, length: bytes }, visit);
    });
  }

  #spansOf({ layer, layerOffset, length }: LayerPiece, visit: (layer: LayerIndex, span: SpanIndex) => void): void {
    if (layer < 0) return;
    const { spans } = this.#image.layers[layer]!.layer;
    const last = spans.at(layerOffset + length - 1);
    for (let span = spans.at(layerOffset); span <= last; span++) visit(layer, span);
  }

  #countRead(layer: LayerIndex, span: SpanIndex): void {
    const unread = this.#unread[layer]!.get(span);
    if (unread !== undefined) {
      this.#unread[layer]!.delete(span);
      this.#unreadBytes -= unread;
    }
    if (this.#counted[layer]![span] === 1) return;
    this.#counted[layer]![span] = 1;
    this.#told.onRead(layer, span, unread !== undefined);
    this.#readBytes += this.#image.layers[layer]!.layer.spans.compressedBytes(span, span + 1);
  }

  /** Asks for as much as may lie unread. */
  #advance(): void {
    for (const spans of this.#loaded) {
      const refused = spans.findIndex((of) => !this.#ask(of));
      spans.splice(0, refused < 0 ? spans.length : refused);
    }
    for (let next = this.#todo.at(-1); next !== undefined; next = this.#todo.at(-1)) {
      if (typeof next === 'number') {
        this.#todo.pop();
        this.#follow(next);
      } else if (this.#ask(next)) this.#todo.pop();
      else break;
    }
    if (this.#todo.length > 0 || this.#libraries.waiting || this.#opened !== null)
      this.#timer ??= setInterval(() => this.#poll(), POLL_MS).unref();
    else this.#stop();
  }

  /** A file's own spans come first, then what it leads to. */
  #follow(file: number): void {
    if (this.#known[file] === 1) return;
    this.#known[file] = 1;
    const { nid, firstTarget, target, firstRange, range } = this.#image.references;
    for (let i = firstTarget[file + 1]! - 1; i >= firstTarget[file]!; i--) {
      if (this.#known[target[i]!] === 0) this.#todo.push(target[i]!);
    }
    const spans: SpanOf[] = [];
    const add = (layer: LayerIndex, span: SpanIndex): void => {
      if (this.#counted[layer]![span] === 0 && !this.#unread[layer]!.has(span)) spans.push({ layer, span });
    };
    const [first, end] = [firstRange[file]!, firstRange[file + 1]!];
    if (first === end) this.#eachSpan(nid[file]!, 0, MAX_WHOLE_FILE, add);
    for (let i = first; i < end; i += 2) {
      this.#eachSpan(nid[file]!, range[i]! * REFERENCE_PAGE, range[i + 1]! * REFERENCE_PAGE, add);
    }
    this.#todo.push(...spans.reverse());
  }

  /** False when it must wait. */
  #ask({ layer, span, why = 'led to' }: SpanOf): boolean {
    const claim = this.#image.layers[layer]!;
    const lazy = claim.layer;
    const unread = this.#unread[layer]!;
    if (this.#counted[layer]![span] === 1 || unread.has(span) || lazy.has(span)) return true;
    const bytes = lazy.spans.compressedBytes(span, span + 1);
    if (this.#unreadBytes + bytes > mayBeReferred(this.#readBytes, why)) return false;
    const length = lazy.spans.length(span);
    if (!this.#image.hasRoom(this.#coming + length)) return false;
    const wait = claim.ahead(span, Priority.readahead);
    if (wait === null) return true;
    unread.set(span, bytes);
    this.#unreadBytes += bytes;
    this.#coming += length;
    wait
      .catch(() => {
        // Given up, or not to be had: counted and logged there. It does not lie unread.
        if (!unread.delete(span)) return;
        this.#unreadBytes -= bytes;
      })
      .finally(() => {
        this.#coming -= length;
      });
    return true;
  }

  /** Goes on where readers have come nearer. */
  #poll(): void {
    this.#guard(() => {
      this.#look();
      if (this.#opened?.look((file) => this.#prefer(file))) this.#lastRead = performance.now();
      this.#libraries.advance();
      if (performance.now() - this.#lastRead > STALE_MS) this.#stop();
      else this.#advance();
    });
  }

  /** Looks what workers have answered by themselves. */
  #look(): void {
    const now = performance.now();
    for (const [layer, spans] of this.#unread.entries()) {
      const { lastUse } = this.#image.layers[layer]!.layer.shared;
      for (const span of spans.keys()) {
        if (lastUse[span]! <= 0) continue;
        this.#countRead(layer, span);
        this.#lastRead = now;
      }
    }
  }
}
