import { readlinkSync } from 'node:fs';
import { parentPort } from 'node:worker_threads';
import { loadCrc64 } from '../bytes/index.js';
import { collectGarbage, keepCode } from '../loader/index.js';
import type { ZstdStream } from '../zstd/index.js';
import type { FromInflate, ResultMessage, Task, TaskMessage, TaskResult, ToInflate } from './inflate-tasks.js';
import { SpanDecoder } from './span-decoder.js';
import { checkSpan, inflateNext, inflateSpan } from './span-work.js';

/** By then it has compiled what it is going to need. */
const WARM_TASKS = 20;

const port = parentPort!;
port.postMessage({ thread: Number(readlinkSync('/proc/thread-self').split('/').at(-1)) } satisfies FromInflate);
const decoder = new SpanDecoder();
let performed = 0;
/** Tasks wait here while zstd loads, so that those of a stream stay in order. */
let loading: Promise<void> | null = null;
/** Null until its stream ends: a decoder that met an error is of no more use. */
const streams = new Map<number, ZstdStream | null>();

function perform(task: Task): TaskResult {
  switch (task.type) {
    case 'check':
      return checkSpan(task);
    case 'inflate':
      return inflateSpan(task, decoder);
    case 'stream': {
      let stream = streams.get(task.stream);
      if (stream === undefined) {
        stream = decoder.newStream();
        streams.set(task.stream, stream);
      }
      if (stream === null) return { status: 'failed', detail: 'an earlier span of the stream was wrong' };
      const result = inflateNext(task, decoder, stream);
      if (result.status !== 'stored' && result.status !== 'bytes') streams.set(task.stream, null);
      return result;
    }
    case 'end-stream':
      streams.delete(task.stream);
      // A decoder's window is up to 128 MiB, and V8 is in no hurry to free it.
      collectGarbage();
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
  if (++performed === WARM_TASKS) setImmediate(keepCode);
  const message: ResultMessage = { id, result };
  port.postMessage(message, result.status === 'bytes' ? [result.bytes.buffer as ArrayBuffer] : []);
}

port.on('message', (message: ToInflate) => {
  if (message === null) {
    port.close();
    return;
  }
  if (message === 'collect') {
    collectGarbage();
    return;
  }
  if (message === 'load') {
    // What fails here fails again where it is needed, and is reported there.
    void Promise.all([decoder.loadZstd(), Promise.resolve().then(loadCrc64)])
      .catch(() => {})
      .then(() => port.postMessage('loaded' satisfies FromInflate));
    return;
  }
  const { task } = message;
  const needsZstd = task.type === 'stream' || (task.type === 'inflate' && task.kind === 'zstd');
  if (loading === null && (decoder.hasZstd || !needsZstd)) {
    answer(message);
    return;
  }
  loading ??= decoder.loadZstd();
  // A failure to load is a failure of the worker: the pool reports it and starts another.
  loading = loading.then(() => answer(message));
  const mine = loading;
  void mine.finally(() => {
    if (loading === mine) loading = null;
  });
});
