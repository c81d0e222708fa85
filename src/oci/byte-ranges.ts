import { FormatError } from '../bytes/index.js';

/** A stretch of a blob. */
export interface BlobRange {
  readonly start: number;
  readonly length: number;
}

/** A boundary's length, and its characters (RFC 2046 §5.1.1); a space does not end it. */
const BOUNDARY = /^[\w'()+,\-./:=? ]{0,69}[\w'()+,\-./:=?]$/;
/** One parameter of a Content-Type (RFC 9110 §5.6.6): a token, or a quoted string. Some servers do not quote what is no token. */
const PARAMETER = /[ \t]*;[ \t]*([!#$%&'*+.^`|~\w-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))/y;

/**
 * A delimiter with the fields of its part, the line ends around them included. Go sends up to 170 bytes, nginx and Apache 120; a part has
 * no other fields of interest than its range.
 */
export const MAX_PART_HEAD_BYTES = 1024;

const LINE_END = '\r\n';
const DASH = 0x2d;
const FIELDS_END = Buffer.from('\r\n\r\n');

/** The value of a Range header (RFC 9110 §14.1.2), in the order of the ranges. */
export function rangeHeader(ranges: readonly BlobRange[]): string {
  return `bytes=${ranges.map(({ start, length }) => `${start}-${start + length - 1}`).join(',')}`;
}

/** The boundary of an answer to a request for several ranges (RFC 9110 §14.6). Null: its type is another one. */
export function boundaryOf(contentType: string): string | null {
  const type = /^multipart\/byteranges(?=[ \t]*;)/i.exec(contentType)?.[0];
  if (type === undefined) return null;
  PARAMETER.lastIndex = type.length;
  for (let match = PARAMETER.exec(contentType); match !== null; match = PARAMETER.exec(contentType)) {
    const [, name, quoted, token] = match;
    if (name!.toLowerCase() !== 'boundary') continue;
    const boundary = quoted?.replace(/\\(.)/g, '$1') ?? token!;
    return BOUNDARY.test(boundary) ? boundary : null;
  }
  return null;
}

/** What of `ranges` is left after this many bytes. */
export function rangesAfter(ranges: readonly BlobRange[], bytes: number): BlobRange[] {
  let skip = bytes;
  const rest: BlobRange[] = [];
  for (const { start, length } of ranges) {
    if (skip < length) rest.push({ start: start + skip, length: length - skip });
    skip = Math.max(0, skip - length);
  }
  return rest;
}

/**
 * Reads the body of a 206 answer of type multipart/byteranges (RFC 9110 §14.6). It takes one answer: each range that was asked for as a
 * part of its own, in the order in which they were asked for, and nothing before the first. Others are allowed to a server (it may
 * join ranges, or sort them), but whoever gets them is better served by single ranges.
 *
 * Pure. The caller passes bytes between the data of parts to {@link between}, and counts the data itself with {@link took}.
 */
export class PartsReader {
  readonly #what: string;
  readonly #delimiter: Buffer;
  readonly #ranges: readonly BlobRange[];
  readonly #size: number;
  /** A delimiter and its part's fields, as far as they have come. */
  readonly #head = Buffer.allocUnsafe(MAX_PART_HEAD_BYTES);
  #headLength = 0;
  /** Of the body: where that head began. */
  #offset = 0;
  /** Parts whose head has come. */
  #parts = 0;
  #left = 0;
  #ended = false;

  /**
   * @param what names the answer in errors: "the answer of https://…"
   * @param size of the blob
   */
  constructor(what: string, boundary: string, ranges: readonly BlobRange[], size: number) {
    this.#what = what;
    this.#delimiter = Buffer.from(`\r\n--${boundary}`, 'latin1');
    this.#ranges = ranges;
    this.#size = size;
  }

  /** Bytes of the part's data that are still to come. 0: what comes next is between the parts. */
  get left(): number {
    return this.#left;
  }

  /** The last delimiter has come. What follows has no meaning. */
  get ended(): boolean {
    return this.#ended;
  }

  /** So many bytes of the part's data have come, at most {@link left}. */
  took(bytes: number): void {
    this.#left -= bytes;
    this.#offset += bytes;
  }

  /**
   * Takes bytes that are not a part's data. Returns how many of them these are: data follows, if any are left.
   * @throws FormatError naming the answer, the place, what was found and what was expected
   */
  between(bytes: Uint8Array): number {
    if (this.#ended) return bytes.length;
    const before = this.#headLength;
    const taken = bytes.subarray(0, MAX_PART_HEAD_BYTES - before);
    this.#head.set(taken, before);
    this.#headLength += taken.length;
    const end = this.#parse(this.#head.subarray(0, this.#headLength));
    if (end === 0) {
      if (this.#headLength === MAX_PART_HEAD_BYTES)
        throw this.#error(`a part's head is longer than ${MAX_PART_HEAD_BYTES} bytes`);
      return taken.length;
    }
    this.#offset += end;
    this.#headLength = 0;
    return end - before;
  }

  /** The length of the head; 0 if more of it is to come. */
  #parse(head: Buffer): number {
    // The line end before the first one may be that of the answer's head.
    const bare = this.#parts === 0 && head[0] === DASH;
    const delimiter = bare ? this.#delimiter.subarray(LINE_END.length) : this.#delimiter;
    for (let i = 0; i < Math.min(head.length, delimiter.length); i++) {
      if (head[i] === delimiter[i]) continue;
      throw this.#error(`${shown(head.subarray(0, i + 1))} in place of the delimiter ${shown(delimiter)}`);
    }
    const at = delimiter.length;
    if (head.length < at + 2) return 0;
    if (head.toString('latin1', at, at + 2) === '--') {
      if (this.#parts < this.#ranges.length) {
        throw this.#error(`the end after ${this.#parts} parts of ${this.#ranges.length}`);
      }
      this.#ended = true;
      return at + 2;
    }
    const fieldsEnd = head.indexOf(FIELDS_END, at);
    if (fieldsEnd < 0) return 0;
    this.#begin(head.toString('latin1', at, fieldsEnd));
    return fieldsEnd + FIELDS_END.length;
  }

  /** @param text what follows the delimiter: the rest of its line, and the fields */
  #begin(text: string): void {
    const [padding = '', ...lines] = text.split(LINE_END);
    if (/[^ \t]/.test(padding)) throw this.#error(`${shown(Buffer.from(padding, 'latin1'))} behind a delimiter`);
    const range = this.#ranges[this.#parts];
    if (range === undefined) throw this.#error(`more parts than the ${this.#ranges.length} that were asked for`);
    const found = lines
      .map((line) => /^content-range[ \t]*:[ \t]*(.*?)[ \t]*$/i.exec(line)?.[1])
      .filter((value) => value !== undefined);
    const { start, length } = range;
    const asked = `bytes ${start}-${start + length - 1}`;
    const [value = ''] = found;
    const [, unit, bytes, total] = /^(\w+) +(\d+-\d+)\/(\d+|\*)$/.exec(value) ?? [];
    const same = `${unit?.toLowerCase()} ${bytes}` === asked && (total === '*' || total === String(this.#size));
    if (found.length !== 1 || !same) {
      const what =
        found.length === 1 ? `Content-Range ${shown(Buffer.from(value, 'latin1'))}` : `${found.length} Content-Ranges`;
      throw this.#error(`part ${this.#parts + 1} has ${what}, ${asked}/${this.#size} was asked for`);
    }
    this.#parts++;
    this.#left = length;
  }

  #error(detail: string): FormatError {
    return new FormatError(this.#what, this.#offset, detail);
  }
}

/** Bytes of a server, short and harmless for a terminal and a log. */
function shown(bytes: Buffer): string {
  return JSON.stringify(bytes.toString('latin1', 0, 80).replace(/[^\x20-\x7e\r\n]/g, '?'));
}
