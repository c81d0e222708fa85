import { createHash } from 'node:crypto';
import { readSync, writeSync } from 'node:fs';
import { ClipError, crc32 } from '../bytes/index.js';
import { CheckpointStateError, SpanInflater } from '../gzip/index.js';
import {
  type CheckTask,
  type InflateTask,
  publish,
  type StreamTask,
  type Target,
  type TaskResult,
} from './inflate-tasks.js';

/** A span is held in memory as a whole only without a disk cache; then a table must not make us allocate what it likes. */
const MAX_SPAN_IN_MEMORY = 1 << 30;
const READ_CHUNK = 256 * 1024;
/** Says nothing of the bytes that came: an error must not let a user who makes archives ask what a file or server holds. */
const WRONG_CRC = 'its inflated bytes have another CRC-32';

/** Where inflated bytes go, in order. Collecting starts over when the disk fails, because the reader still wants them. */
interface Sink {
  write(view: Uint8Array): void;
}

/** A cache file refused a write. */
class WriteError extends Error {
  constructor(readonly code: string) {
    super(code);
  }
}

export function writeFully(fd: number, view: Uint8Array, position: number): void {
  try {
    for (let done = 0; done < view.length; ) {
      done += writeSync(fd, view, done, view.length - done, position + done);
    }
  } catch (error) {
    throw new WriteError((error as NodeJS.ErrnoException).code ?? String(error));
  }
}

class FileSink implements Sink {
  #position: number;

  constructor(readonly target: Target) {
    this.#position = target.position;
  }

  write(view: Uint8Array): void {
    writeFully(this.target.fd, view, this.#position);
    this.#position += view.length;
  }
}

export class MemorySink implements Sink {
  readonly bytes: Uint8Array;
  #length = 0;

  constructor(length: number) {
    if (length > MAX_SPAN_IN_MEMORY) {
      throw new ClipError('LIMIT', `a span of ${length} bytes does not fit in memory (limit ${MAX_SPAN_IN_MEMORY})`);
    }
    this.bytes = new Uint8Array(length);
  }

  write(view: Uint8Array): void {
    this.bytes.set(view, this.#length);
    this.#length += view.length;
  }
}

export function checkDigest(compressed: Uint8Array, sha256: Uint8Array): TaskResult | null {
  const found = createHash('sha256').update(compressed).digest();
  return found.equals(sha256) ? null : { status: 'digest-mismatch' };
}

/** Decodes one span that stands on its own into a sink. Returns the CRC-32 of what it wrote. */
export type SpanDecoder = (task: InflateTask, onOutput: (view: Uint8Array) => void) => number;

let inflater: SpanInflater | null = null;

export const decodeGzip: SpanDecoder = (task, onOutput) => {
  inflater ??= new SpanInflater();
  return inflater.inflate(task.compressed, task.startBit, task.state, task.outLength, onOutput);
};

export const decodeTar: SpanDecoder = (task, onOutput) => {
  onOutput(task.compressed);
  return crc32(task.compressed);
};

/**
 * Verify, inflate, verify, store. Never throws for bad data: the result says what is wrong. A cache file that refuses the
 * bytes does not lose them.
 */
export function inflateSpan(task: InflateTask, decode: SpanDecoder): TaskResult {
  const wrong = checkDigest(task.compressed, task.sha256);
  if (wrong !== null) return wrong;
  const run = (sink: Sink): string | null => {
    let length = 0;
    const crc = decode(task, (view) => {
      length += view.length;
      if (length > task.outLength) throw new ClipError('BAD_FORMAT', `it yields more than ${task.outLength} bytes`);
      sink.write(view);
    });
    if (length !== task.outLength) return `it yields ${length} bytes, ${task.outLength} expected`;
    return crc === task.crc32 ? null : WRONG_CRC;
  };
  let writeError: string | undefined;
  try {
    if (task.target.fd >= 0) {
      try {
        const detail = run(new FileSink(task.target));
        if (detail !== null) return { status: 'bad-content', detail };
        publish(task.target);
        return { status: 'stored' };
      } catch (error) {
        if (!(error instanceof WriteError)) throw error;
        writeError = error.code;
      }
    }
    const sink = new MemorySink(task.outLength);
    const detail = run(sink);
    if (detail !== null) return { status: 'bad-content', detail };
    return writeError === undefined
      ? { status: 'bytes', bytes: sink.bytes }
      : { status: 'bytes', bytes: sink.bytes, writeError };
  } catch (error) {
    if (error instanceof CheckpointStateError) return { status: 'bad-state', detail: error.message };
    if (error instanceof ClipError) return { status: 'bad-content', detail: error.message };
    throw error;
  }
}

/** The decoder of a stream, after all spans before this one went through it. */
export interface StreamDecoder {
  /** @returns the CRC-32 of the output. @throws FormatError, and is then of no more use */
  inflate(compressed: Uint8Array, outLength: number, onOutput: (view: Uint8Array) => void): number;
}

/** As inflateSpan, for the next span of a stream. It cannot be decoded twice, so it is whole in memory before it is written. */
export function inflateNext(task: StreamTask, decoder: StreamDecoder): TaskResult {
  const wrong = checkDigest(task.compressed, task.sha256);
  if (wrong !== null) return wrong;
  try {
    const sink = task.target === null ? null : new MemorySink(task.outLength);
    const crc = decoder.inflate(task.compressed, task.outLength, (view) => sink?.write(view));
    if (crc !== task.crc32) return { status: 'bad-content', detail: WRONG_CRC };
    if (sink === null || task.target === null) return { status: 'stored' };
    const { bytes } = sink;
    if (task.target.fd < 0) return { status: 'bytes', bytes };
    try {
      writeFully(task.target.fd, bytes, task.target.position);
    } catch (error) {
      if (error instanceof WriteError) return { status: 'bytes', bytes, writeError: error.code };
      throw error;
    }
    publish(task.target);
    return { status: 'stored' };
  } catch (error) {
    if (error instanceof ClipError) return { status: 'bad-content', detail: error.message };
    throw error;
  }
}

let scratch: Uint8Array | null = null;

/** Is what an earlier run left the span it should be? Then it is present from now on. */
export function checkSpan(task: CheckTask): TaskResult {
  scratch ??= new Uint8Array(READ_CHUNK);
  let crc = 0;
  for (let done = 0; done < task.outLength; ) {
    let length: number;
    try {
      length = readSync(
        task.target.fd,
        scratch,
        0,
        Math.min(READ_CHUNK, task.outLength - done),
        task.target.position + done,
      );
    } catch (error) {
      return { status: 'absent', detail: (error as NodeJS.ErrnoException).code ?? String(error) };
    }
    if (length === 0) return { status: 'absent' };
    crc = crc32(scratch.subarray(0, length), crc);
    done += length;
  }
  if (crc !== task.crc32) return { status: 'absent' };
  publish(task.target);
  return { status: 'stored' };
}
