import type { LayerIndex, Nid, SpanIndex } from '../../bytes/index.js';
import { Priority } from '../inflate-tasks.js';
import type { LayerClaim } from '../layer-claim.js';
import type { LinkCost } from '../link.js';
import type { FileStretch, FollowedImage, LayerPiece } from './followed-image.js';
import {
  evidenceAt,
  evidenceOfCode,
  mayBeComing,
  mayBeWalked,
  mayLieUnread,
  mayLieUnreadInAll,
  pays,
  probabilityOf,
  REACH,
  Record,
  trusted,
} from './policy.js';
import { Walks } from './walks.js';

/** How often it is looked how far readers have got: workers answer hits by themselves and do not tell. */
const POLL_MS = 4;
/** Where nothing was read for this long, the reader has gone another way. */
const STALE_MS = 2000;
/** Spans that the mount's readers come to before a guess counts as wrong. */
const USELESS_AFTER = 16;
/** Files of several spans that are remembered, of each layer. */
const MAX_FILES = 64;
/** Spans that are considered at a time. More is nothing that a reader comes to soon. */
const MAX_CANDIDATES = 4096;

/** What the speculator needs of a mount. */
export interface SpeculatedImage extends Pick<FollowedImage, 'map' | 'hasRoom' | 'onFault'> {
  readonly layers: readonly LayerClaim[];
  link(): LinkCost;
  /** Compressed bytes of what references lead to that lie unread. They count against the same bound. */
  referredBytes(): number;
}

/** A file of several spans. */
interface WideFile {
  readonly first: SpanIndex;
  readonly last: SpanIndex;
  readonly record: Record;
  readonly walks: Walks;
  /** Of what walks come to: whatever lies around them may be read at random. */
  readonly walked: Record;
  /** It was read, which says something of its neighbours once: its spans are read for their own sake. */
  told: boolean;
}

interface Candidate {
  evidence: number;
  record: Record;
  /** That a walk comes to it, and by which record; 0: none does. */
  walk: number;
  walked: Record | null;
  /** When evidence came last. */
  at: number;
}

interface Guess {
  readonly bytes: number;
  readonly probability: number;
  readonly record: Record;
  readonly walk: boolean;
  /** The spans that had been read when it was asked for. */
  readonly reads: number;
  useless: boolean;
}

interface Asked {
  readonly span: SpanIndex;
  /** Of its output. */
  readonly length: number;
}

interface LayerState {
  readonly claim: LayerClaim;
  readonly read: Uint8Array;
  readonly candidates: Map<SpanIndex, Candidate>;
  /** Asked for, and not read yet. */
  readonly guesses: Map<SpanIndex, Guess>;
  readonly files: WideFile[];
  /** Of what lies near a read, in other files. */
  readonly record: Record;
}

/**
 * Fetches what readers are likely to come to, judged by where they have read, while the link would be idle: neighbours in the layer (files
 * of a directory lie together) and the rest of a file that is read here and there. How likely, and how much, policy.ts says. One per
 * mount, on the I/O thread.
 */
export class Speculator {
  readonly #image: SpeculatedImage;
  readonly #layers: readonly LayerState[];
  #unread = 0;
  #coming = 0;
  /** Inflated bytes that are on their way, and not in the cache yet. */
  #inflating = 0;
  #right = 0;
  /** Of these, bytes that a walk came to. */
  #walked = 0;
  #readBytes = 0;
  #reads = 0;
  #lastRead = 0;
  #timer: NodeJS.Timeout | null = null;
  #closed = false;

  constructor(image: SpeculatedImage) {
    this.#image = image;
    this.#layers = image.layers.map((claim) => ({
      claim,
      read: new Uint8Array(claim.layer.spans.count),
      candidates: new Map(),
      guesses: new Map(),
      files: [],
      record: new Record(),
    }));
  }

  /** A reader waits for bytes of a file, which lie in these pieces. @throws FormatError */
  onMiss(nid: Nid, pieces: readonly LayerPiece[]): void {
    if (this.#closed) return;
    for (const { layer, layerOffset, length } of pieces) {
      if (layer < 0) continue;
      const { spans } = this.#layers[layer]!.claim.layer;
      const [first, last] = [spans.at(layerOffset), spans.at(layerOffset + length - 1)];
      this.#noteFile(layer, nid, first);
      for (let span = first; span <= last; span++) this.#note(layer, span);
    }
    this.#go();
  }

  #go(): void {
    this.#judge();
    this.#advance();
    if (this.#guessing) this.#timer ??= setInterval(() => this.#poll(), POLL_MS).unref();
  }

  /** A program or library was opened. `code`: offset and length of its large segments. @throws FormatError */
  onOpened(nid: Nid, code: readonly FileStretch[]): void {
    if (this.#closed) return;
    this.#lastRead = performance.now();
    const evidence = evidenceOfCode(code.reduce((sum, { length }) => sum + length, 0));
    for (const { offset, length } of code) {
      this.#image.map(nid, offset, length, (layer, layerOffset, n) => {
        const state = layer < 0 ? null : this.#layers[layer]!;
        if (state === null || state.claim.layer.streamed) return;
        const { spans } = state.claim.layer;
        const [first, last] = [spans.at(layerOffset), spans.at(layerOffset + n - 1)];
        this.#noteFile(layer, nid, first);
        const record = fileAt(state.files, first)?.record ?? state.record;
        for (let span = first; span <= last; span++) this.#add(state, span, evidence, record);
      });
    }
    this.#go();
  }

  /**
   * A span was read that was fetched for another reason.
   * @param known a reference led to it, which says nothing of other files that lie around
   */
  onRead(layer: LayerIndex, span: SpanIndex, known: boolean): void {
    if (!this.#closed) this.#note(layer, span, known);
  }

  /** Cancels spans that no reader has read; readers still get those they wait for. */
  close(): void {
    this.#closed = true;
    this.#stop();
    for (const { claim, guesses, candidates } of this.#layers) {
      for (const span of guesses.keys()) claim.layer.cancelAhead(span);
      guesses.clear();
      candidates.clear();
    }
  }

  get #guessing(): boolean {
    return this.#layers.some(({ guesses }) => guesses.size > 0);
  }

  #stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  /** Remembers a file of several spans: what is read of it tells of all of it. */
  #noteFile(layer: LayerIndex, nid: Nid, span: SpanIndex): void {
    const { claim, files } = this.#layers[layer]!;
    if (fileAt(files, span) !== null) return;
    const { spans } = claim.layer;
    let [start, end] = [Number.POSITIVE_INFINITY, 0];
    this.#image.map(nid, 0, Number.MAX_SAFE_INTEGER, (at, offset, length) => {
      if (at !== layer) return;
      start = Math.min(start, offset);
      end = Math.max(end, offset + length);
    });
    if (end <= start) return;
    const [first, last] = [spans.at(start), spans.at(end - 1)];
    if (first >= last) return;
    if (files.length >= MAX_FILES) files.shift();
    files.push({ first, last, record: new Record(), walks: new Walks(), walked: new Record(), told: false });
  }

  #note(layer: LayerIndex, span: SpanIndex, known = false): void {
    const state = this.#layers[layer]!;
    if (state.read[span] === 1) return;
    state.read[span] = 1;
    const { spans } = state.claim.layer;
    this.#reads++;
    this.#lastRead = performance.now();
    this.#readBytes += spans.compressedBytes(span, span + 1);
    state.candidates.delete(span);
    const guess = state.guesses.get(span);
    if (guess !== undefined) {
      state.guesses.delete(span);
      this.#unread -= guess.bytes;
      this.#right += guess.bytes;
      if (guess.walk) this.#walked += guess.bytes;
      if (guess.useless) guess.record.late();
      else guess.record.settle(guess.probability, true);
    }
    if (state.claim.layer.streamed) return;
    const file = fileAt(state.files, span);
    const from = Math.max(0, span - REACH);
    const to = Math.min(spans.count - 1, span + REACH);
    for (let at = from; at <= to; at++) {
      const same = file !== null && at >= file.first && at <= file.last;
      if (!same && (known || file?.told === true)) continue;
      const evidence = evidenceAt(Math.abs(at - span), same);
      if (evidence > 0) this.#add(state, at, evidence, same ? file.record : state.record);
    }
    if (file === null) return;
    file.told = true;
    this.#walk(state, file, span);
  }

  /** What a walk through the file comes to next. */
  #walk(state: LayerState, file: WideFile, span: SpanIndex): void {
    const next = file.walks.note(span);
    if (next === null) return;
    const { from, direction, count, probability } = next;
    for (let i = 1; i <= count; i++) {
      const at = from + direction * i;
      if (at < file.first || at > file.last) return;
      const candidate = this.#add(state, at, 0, file.record);
      if (candidate === null) continue;
      candidate.walk = probability;
      candidate.walked = file.walked;
    }
  }

  /** Null: it needs no guess. */
  #add(state: LayerState, span: SpanIndex, evidence: number, record: Record): Candidate | null {
    if (state.read[span] === 1 || state.guesses.has(span) || state.claim.layer.has(span)) return null;
    let candidate = state.candidates.get(span);
    if (candidate === undefined) {
      if (state.candidates.size >= MAX_CANDIDATES) return null;
      candidate = { evidence: 0, record, walk: 0, walked: null, at: 0 };
      state.candidates.set(span, candidate);
    }
    candidate.evidence += evidence;
    candidate.record = record;
    candidate.at = this.#lastRead;
    return candidate;
  }

  /** Guesses that readers have long gone past were wrong; those that were evicted do not lie unread any more. */
  #judge(): void {
    for (const { claim, guesses } of this.#layers) {
      for (const [span, guess] of guesses) {
        if (!guess.useless && this.#reads - guess.reads >= USELESS_AFTER) {
          guess.useless = true;
          guess.record.settle(guess.probability, false);
        }
        if (claim.layer.has(span) || claim.layer.fetching(span)) continue;
        guesses.delete(span);
        this.#unread -= guess.bytes;
      }
    }
  }

  /** Asks for the likeliest spans, as long as they pay and the bounds allow it. */
  #advance(): void {
    if (this.#closed) return;
    const link = this.#image.link();
    const likely: { state: LayerState; span: SpanIndex; record: Record; probability: number; walk: boolean }[] = [];
    const stale = performance.now() - STALE_MS;
    for (const state of this.#layers) {
      const { candidates, claim } = state;
      for (const [span, candidate] of candidates) {
        if (candidate.at < stale || claim.layer.has(span)) candidates.delete(span);
        else likely.push({ state, span, ...likelihoodOf(candidate) });
      }
    }
    likely.sort((a, b) => b.probability - a.probability);
    const mostUnread = Math.min(
      mayLieUnread(link, this.#right, this.#readBytes),
      mayLieUnreadInAll(this.#readBytes, this.#right) - this.#image.referredBytes(),
    );
    for (const { state, span, record, probability, walk } of likely) {
      const { layer } = state.claim;
      const bytes = layer.spans.compressedBytes(span, span + 1);
      const length = layer.spans.length(span);
      if (!pays(probability, bytes, length, link)) continue;
      if (this.#coming > 0 && this.#coming + bytes > mayBeComing(link)) return;
      // Wrong guesses around what was read leave room for a walk: it pays for itself as it goes on.
      if (this.#unread + bytes > mostUnread + (walk ? mayBeWalked(link, this.#walked) : 0)) continue;
      if (!this.#image.hasRoom(this.#inflating + length)) return;
      state.candidates.delete(span);
      if (!layer.fetching(span)) this.#ask(state, { span, bytes, length, probability, record, walk });
    }
  }

  #ask(state: LayerState, asked: Pick<Guess, 'bytes' | 'probability' | 'record' | 'walk'> & Asked): void {
    const { span, bytes, length, probability, record, walk } = asked;
    const wait = state.claim.ahead(span, Priority.speculation);
    if (wait === null) return;
    const guess: Guess = { bytes, probability, record, walk, reads: this.#reads, useless: false };
    state.guesses.set(span, guess);
    this.#unread += bytes;
    this.#coming += bytes;
    this.#inflating += length;
    void wait
      .catch(() => {
        // Given up, or not to be had: counted and logged there. It does not lie unread.
        if (state.guesses.get(span) !== guess) return;
        state.guesses.delete(span);
        this.#unread -= bytes;
      })
      .finally(() => {
        this.#coming -= bytes;
        this.#inflating -= length;
        this.#advance();
      });
  }

  /** Looks what workers have answered by themselves. */
  #poll(): void {
    let moved = false;
    for (const [layer, { claim, guesses }] of this.#layers.entries()) {
      const { lastUse } = claim.layer.shared;
      for (const span of guesses.keys()) {
        if (lastUse[span]! <= 0) continue;
        moved = true;
        this.#note(layer, span);
      }
    }
    if (moved) {
      this.#judge();
      this.#advance();
    }
    if (performance.now() - this.#lastRead > STALE_MS || !this.#guessing) this.#stop();
  }
}

/** By the walk that comes to it or by what was read around it, whichever says more. */
function likelihoodOf(candidate: Candidate): { probability: number; record: Record; walk: boolean } {
  const { evidence, record, walk, walked } = candidate;
  const around = probabilityOf(evidence, record);
  const byWalk = walked === null ? 0 : trusted(walk, walked);
  if (walked !== null && byWalk > around) return { probability: byWalk, record: walked, walk: true };
  return { probability: around, record, walk: false };
}

function fileAt(files: readonly WideFile[], span: SpanIndex): WideFile | null {
  for (let i = files.length - 1; i >= 0; i--) {
    const file = files[i]!;
    if (span >= file.first && span <= file.last) return file;
  }
  return null;
}
