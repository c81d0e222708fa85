import { parentPort } from 'node:worker_threads';
import type { ResultMessage, Task, TaskMessage, TaskResult, ToInflate } from './inflate-tasks.js';
import {
  checkSpan,
  decodeGzip,
  decodeTar,
  inflateNext,
  inflateSpan,
  type SpanDecoder,
  type StreamDecoder,
} from './span-work.js';

const port = parentPort!;

interface Zstd {
  readonly decode: SpanDecoder;
  newStream(): StreamDecoder;
}

/** libzstd is a WASM module of its own: loaded when the first zstd span comes. */
async function loadZstd(): Promise<Zstd> {
  const { ZstdSpanInflater, ZstdStream } = await import('../zstd/index.js');
  const inflater = new ZstdSpanInflater();
  return {
    decode: (task, onOutput) => inflater.inflate(task.compressed, task.outLength, onOutput),
    newStream: () => new ZstdStream(),
  };
}

let zstd: Zstd | null = null;
/** Tasks wait here while zstd loads, so that those of a stream stay in order. */
let loading: Promise<void> | null = null;
/** A decoder that met an error is no more use: null until its stream ends. */
const streams = new Map<number, StreamDecoder | null>();

function perform(task: Task): TaskResult {
  switch (task.type) {
    case 'check':
      return checkSpan(task);
    case 'inflate':
      if (task.kind === 'zstd') return inflateSpan(task, zstd!.decode);
      return inflateSpan(task, task.kind === 'gzip' ? decodeGzip : decodeTar);
    case 'stream': {
      let decoder = streams.get(task.stream);
      if (decoder === undefined) {
        decoder = zstd!.newStream();
        streams.set(task.stream, decoder);
      }
      if (decoder === null) return { status: 'failed', detail: 'an earlier span of the stream was wrong' };
      const result = inflateNext(task, decoder);
      if (result.status !== 'stored' && result.status !== 'bytes') streams.set(task.stream, null);
      return result;
    }
    case 'end-stream':
      streams.delete(task.stream);
      return { status: 'stored' };
  }
}

function answer({ id, task }: TaskMessage): void {
  let result: TaskResult;
  try {
    result = perform(task);
  } catch (error) {
    result = { status: 'failed', detail: error instanceof Error ? (error.stack ?? error.message) : String(error) };
  }
  const message: ResultMessage = { id, result };
  port.postMessage(message, result.status === 'bytes' ? [result.bytes.buffer as ArrayBuffer] : []);
}

port.on('message', (message: ToInflate) => {
  if (message === null) {
    port.close();
    return;
  }
  const { task } = message;
  const needsZstd = task.type === 'stream' || (task.type === 'inflate' && task.kind === 'zstd');
  if (loading === null && (zstd !== null || !needsZstd)) {
    answer(message);
    return;
  }
  loading ??= loadZstd().then((loaded) => {
    zstd = loaded;
  });
  // A failure to load is a failure of the worker: the pool reports it and starts another.
  loading = loading.then(() => answer(message));
  const mine = loading;
  void mine.finally(() => {
    if (loading === mine) loading = null;
  });
});
