import { readlinkSync } from 'node:fs';
import { parentPort } from 'node:worker_threads';
import { loadCrc64 } from '../bytes/index.js';
import { collectGarbage, keepCode } from '../loader/index.js';
import type { ZstdStream } from '../zstd/index.js';
import type { FromInflate, ResultMessage, Task, TaskMessage, TaskResult, ToInflate } from './inflate-tasks.js';
import { SpanDecoder } from './span-decoder.js';
import { checkSpan, inflateNext, inflateSpan } from './span-work.js';

const port = parentPort!;
port.postMessage({ thread: Number(readlinkSync('/proc/thread-self').split('/').at(-1)) } satisfies FromInflate);
const decoder = new SpanDecoder();
/** Tasks wait while zstd loads. */
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
  const message: ResultMessage = { id, result };
  port.postMessage(message, result.status === 'bytes' ? [result.bytes.buffer as ArrayBuffer] : []);
}

/** Given, and not begun. */
const waiting: TaskMessage[] = [];
let ending = false;

let scheduled = false;

port.on('message', (message: ToInflate) => {
  take(message);
  schedule();
});

/** A task runs when all messages that have come were taken. */
function schedule(): void {
  if (scheduled || loading !== null) return;
  scheduled = true;
  setImmediate(work);
}

function take(message: ToInflate): void {
  if (message === null) ending = true;
  else if (message === 'collect') collectGarbage();
  else if (message === 'keep') keepCode();
  else if (message === 'load') {
    // What fails here fails again where it is needed, and is reported there.
    void Promise.all([decoder.loadZstd(), Promise.resolve().then(loadCrc64)])
      .catch(() => {})
      .then(() => port.postMessage('loaded' satisfies FromInflate));
  } else if ('raise' in message) {
    const raised = waiting.find(({ id }) => id === message.raise);
    if (raised !== undefined) raised.priority = message.priority;
  } else waiting.push(message);
}

/** Does the most urgent of what was given. */
function work(): void {
  scheduled = false;
  const message = next();
  if (message === null) {
    if (ending) port.close();
    return;
  }
  const { task } = message;
  const needsZstd = task.type === 'stream' || (task.type === 'inflate' && task.kind === 'zstd');
  if (needsZstd && !decoder.hasZstd) {
    // A failure to load is a failure of the worker: the pool reports it and starts another.
    loading = decoder.loadZstd().then(() => {
      loading = null;
      answer(message);
      schedule();
    });
    return;
  }
  answer(message);
  schedule();
}

function next(): TaskMessage | null {
  let best = -1;
  for (let i = 0; i < waiting.length; i++)
    if ((best < 0 || waiting[i]!.priority < waiting[best]!.priority) && !followsInStream(i)) best = i;
  return best < 0 ? null : waiting.splice(best, 1)[0]!;
}

/** Whether a task comes behind another one of its stream, whose tasks stay in order. */
function followsInStream(at: number): boolean {
  const { task } = waiting[at]!;
  if (!('stream' in task)) return false;
  return waiting.slice(0, at).some(({ task: other }) => 'stream' in other && other.stream === task.stream);
}
