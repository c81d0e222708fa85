import { closeSync, constants, openSync, writeSync } from 'node:fs';
import { parentPort } from 'node:worker_threads';
import type { LayerIndex } from '../bytes/index.js';
import { lowerBound } from '../bytes/index.js';
import { ErofsReader, InodeView } from '../erofs/index.js';
import { SpanDecoder, type SpanFault } from '../lazy/index.js';
import type { ZstdStream } from '../zstd/index.js';
import type { Chunk, ChunkSpan, FromWorker, ToWorker, WorkerPlan } from './messages.js';
import { applyMetadata } from './metadata.js';

const port = parentPort!;
const inode = new InodeView();
const decoder = new SpanDecoder();
const streams = new Map<number, ZstdStream>();
let output = new Uint8Array(0);

const OPEN = constants.O_WRONLY | constants.O_CREAT | constants.O_NOFOLLOW;
const SLASH = Buffer.from('/');

/** The plan as this thread uses it. */
class Target {
  readonly #root: Buffer;
  readonly #paths: Buffer;
  readonly reader: ErofsReader;

  constructor(readonly plan: WorkerPlan) {
    const { paths } = plan.files;
    this.#root = Buffer.from(plan.directory);
    this.#paths = Buffer.from(paths.buffer, paths.byteOffset, paths.length);
    this.reader = new ErofsReader(plan.tree);
  }

  pathOf(file: number): Buffer {
    const { pathAt } = this.plan.files;
    return Buffer.concat([this.#root, SLASH, this.#paths.subarray(pathAt[file]!, pathAt[file + 1]!)]);
  }
}

/** Writes what a span holds of files. Its bytes are verified by now. */
function writeFiles(target: Target, layer: LayerIndex, span: ChunkSpan): void {
  const { plan, reader } = target;
  const pieces = plan.pieces[layer]!;
  const end = span.start + span.length;
  // The piece before the first that begins in the span may reach into it.
  for (let i = Math.max(0, lowerBound(pieces.start, span.start) - 1); i < pieces.count; i++) {
    const start = pieces.start[i]!;
    if (start >= end) break;
    const from = Math.max(start, span.start);
    const to = Math.min(start + pieces.length[i]!, end);
    if (from >= to) continue;
    const file = pieces.file[i]!;
    const whole = plan.files.single[file] === 1 && from === start && to === start + pieces.length[i]!;
    reader.inode(plan.files.nid[file]!, inode);
    const path = target.pathOf(file);
    const made = inode.mode & 0o777 & ~plan.umask;
    const fd = openSync(path, OPEN, inode.mode & 0o777);
    try {
      const at = pieces.fileOffset[i]! + from - start;
      for (let done = 0; done < to - from; ) {
        done += writeSync(fd, output, from - span.start + done, to - from - done, at + done);
      }
      if (whole) applyMetadata(path, inode, reader, plan.owners, made, fd);
    } finally {
      closeSync(fd);
    }
  }
}

function unpackSpan(target: Target, { layer, kind, bytes }: Chunk, span: ChunkSpan): SpanFault | null {
  if (output.length < span.length) output = new Uint8Array(span.length);
  let filled = 0;
  const take = (view: Uint8Array): void => {
    output.set(view, filled);
    filled += view.length;
  };
  const { sha256, crc32, length: outLength, startBit, state } = span;
  const compressed = { compressed: bytes.subarray(span.from, span.to), sha256, crc32, outLength };
  let fault: SpanFault | null;
  if (kind === 'zstd-stream') {
    const stream = streams.get(layer) ?? decoder.newStream();
    streams.set(layer, stream);
    fault = decoder.decodeNext(stream, compressed, take);
  } else {
    fault = decoder.decode({ ...compressed, kind, startBit, state }, take);
  }
  if (fault === null) writeFiles(target, layer, span);
  return fault;
}

async function unpackChunk(target: Target, chunk: Chunk): Promise<FromWorker['error']> {
  if (chunk.kind === 'zstd' || chunk.kind === 'zstd-stream') await decoder.loadZstd();
  try {
    for (const span of chunk.spans) {
      const fault = unpackSpan(target, chunk, span);
      if (fault === null) continue;
      if (fault.status === 'digest-mismatch') {
        return {
          code: 'DIGEST_MISMATCH',
          message: `${span.name}: the bytes of the blob are not those that were indexed`,
        };
      }
      return { code: 'BAD_FORMAT', message: `${span.name}: ${fault.detail}` };
    }
    return null;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    return { code: 'SYSTEM', message, ...(code === undefined ? {} : { errno: code }) };
  }
}

/** One chunk after the other: those of a stream have an order. */
let queue: Promise<unknown> = Promise.resolve();
let told: Target | null = null;
port.on('message', (message: ToWorker) => {
  if (message === null) {
    port.close();
    return;
  }
  if ('plan' in message) {
    told = new Target(message.plan);
    return;
  }
  const target = told!;
  queue = queue.then(async () => {
    const error = await unpackChunk(target, message);
    port.postMessage({ id: message.id, error } satisfies FromWorker);
  });
});
