import { readSync, writeSync } from 'node:fs';
import { crc32 } from '../bytes/index.js';
import { type BlockCheck, checkBlocks, partOf, publish, type SpanTarget } from '../spans/index.js';
import type { ZstdStream } from '../zstd/index.js';
import type { CheckTask, InflateTask, StreamTask, TaskResult } from './inflate-tasks.js';
import type { SpanDecoder } from './span-decoder.js';

const READ_CHUNK = 256 * 1024;

/** A cache file refused a write. */
class WriteError extends Error {
  constructor(readonly code: string) {
    super(code);
  }
}

function writeFully(fd: number, view: Uint8Array, position: number): void {
  try {
    for (let done = 0; done < view.length; ) {
      done += writeSync(fd, view, done, view.length - done, position + done);
    }
  } catch (error) {
    throw new WriteError((error as NodeJS.ErrnoException).code ?? String(error));
  }
}

/** Blocks that are freed are whole blocks of this size (cache/), so others than a span's own may hold old bytes. */
const BLOCK = 4096;
const ZEROS = Buffer.alloc(64 * 1024);

function isZero(view: Uint8Array): boolean {
  for (let at = 0; at < view.length; at += ZEROS.length) {
    const part = view.subarray(at, at + ZEROS.length);
    // Node's equals() is memcmp, and ends with the first byte that differs.
    if (!ZEROS.subarray(0, part.length).equals(part)) return false;
  }
  return true;
}

/** Writes a span's output to its place in the cache file, in order. Zeros that are there already, as a hole, are left alone. */
class FileSink {
  /** Nothing but zeros so far, and their place is a hole. */
  zeros: boolean;
  readonly #fd: number;
  #position: number;
  /** The blocks that hold nothing but this span, where a hole is one. */
  readonly #holeStart: number;
  readonly #holeEnd: number;

  constructor(target: SpanTarget, length: number) {
    this.zeros = target.hole === true;
    this.#fd = target.fd;
    this.#position = target.position;
    this.#holeStart = Math.ceil(target.position / BLOCK) * BLOCK;
    this.#holeEnd = target.hole === true ? Math.floor((target.position + length) / BLOCK) * BLOCK : 0;
  }

  readonly write = (view: Uint8Array): void => {
    const start = this.#position;
    const end = start + view.length;
    this.#position = end;
    const from = Math.max(start, this.#holeStart);
    const to = Math.min(end, this.#holeEnd);
    const zero = (this.zeros || from < to) && isZero(view);
    if (!zero) this.zeros = false;
    if (!zero || from >= to) writeFully(this.#fd, view, start);
    else {
      writeFully(this.#fd, view.subarray(0, from - start), start);
      writeFully(this.#fd, view.subarray(to - start), to);
    }
  };
}

/** Collects a span's output. An archive with a span of more than MAX_SPAN_OUTPUT bytes cannot be opened. */
class MemorySink {
  readonly bytes: Uint8Array;
  #length = 0;

  constructor(length: number) {
    this.bytes = new Uint8Array(length);
  }

  readonly write = (view: Uint8Array): void => {
    this.bytes.set(view, this.#length);
    this.#length += view.length;
  };
}

/**
 * Verify, inflate, verify, store. Never throws for bad data: the result says what is wrong. A cache file that refuses the
 * bytes does not lose them: they are inflated again, into memory, because the reader still wants them.
 */
export function inflateSpan(task: InflateTask, decoder: SpanDecoder): TaskResult {
  const { blocks = null } = task;
  const part = blocks === null ? undefined : partOf(task.compressed, blocks);
  let writeError: string | undefined;
  if (task.target.fd >= 0) {
    try {
      const sink = new FileSink(task.target, task.outLength);
      const fault = decoder.decode(task, sink.write);
      if (fault !== null) return fault;
      // A part of a long data block is not served before the I/O thread has added it to the others.
      if (part === undefined) publish(task.target);
      return { status: 'stored', zeros: sink.zeros, part };
    } catch (error) {
      if (!(error instanceof WriteError)) throw error;
      writeError = error.code;
    }
  }
  const sink = new MemorySink(task.outLength);
  return decoder.decode(task, sink.write) ?? { ...bytesOf(sink, writeError), part };
}

/** As inflateSpan, for the next span of a stream. It cannot be decoded twice, so it is whole in memory before it is written. */
export function inflateNext(task: StreamTask, decoder: SpanDecoder, stream: ZstdStream): TaskResult {
  const { target } = task;
  if (target === null) return decoder.decodeNext(stream, task, () => {}) ?? { status: 'stored' };
  const sink = new MemorySink(task.outLength);
  const fault = decoder.decodeNext(stream, task, sink.write);
  if (fault !== null) return fault;
  if (target.fd < 0) return bytesOf(sink, undefined);
  const file = new FileSink(target, task.outLength);
  try {
    file.write(sink.bytes);
  } catch (error) {
    if (error instanceof WriteError) return bytesOf(sink, error.code);
    throw error;
  }
  publish(target);
  return { status: 'stored', zeros: file.zeros };
}

function bytesOf({ bytes }: MemorySink, writeError: string | undefined): Extract<TaskResult, { status: 'bytes' }> {
  return writeError === undefined ? { status: 'bytes', bytes } : { status: 'bytes', bytes, writeError };
}

let scratch: Uint8Array | null = null;

/** Whether the bytes that an earlier run left are the span. If so, it is present from now on. */
export function checkSpan({ target, outLength, crc32: expected, blocks }: CheckTask): TaskResult {
  if (blocks !== null) return checkBlockSpan(target, outLength, blocks);
  scratch ??= new Uint8Array(READ_CHUNK);
  let crc = 0;
  for (let done = 0; done < outLength; ) {
    let length: number;
    try {
      length = readSync(target.fd, scratch, 0, Math.min(READ_CHUNK, outLength - done), target.position + done);
    } catch (error) {
      return { status: 'absent', detail: (error as NodeJS.ErrnoException).code ?? String(error) };
    }
    if (length === 0) return { status: 'absent' };
    crc = crc32(scratch.subarray(0, length), crc);
    done += length;
  }
  if (crc !== expected) return { status: 'absent' };
  publish(target);
  return { status: 'stored' };
}

/** The same for a span of data blocks, which is read as a whole. */
function checkBlockSpan(target: SpanTarget, length: number, blocks: BlockCheck): TaskResult {
  if (scratch === null || scratch.length < length) scratch = new Uint8Array(Math.max(READ_CHUNK, length));
  const bytes = scratch.subarray(0, length);
  try {
    for (let done = 0; done < length; ) {
      const count = readSync(target.fd, bytes, done, length - done, target.position + done);
      if (count === 0) return { status: 'absent' };
      done += count;
    }
  } catch (error) {
    return { status: 'absent', detail: (error as NodeJS.ErrnoException).code ?? String(error) };
  }
  if (checkBlocks(bytes, blocks) !== null) return { status: 'absent' };
  if (blocks.part === null) publish(target);
  return { status: 'stored', part: partOf(bytes, blocks) };
}
