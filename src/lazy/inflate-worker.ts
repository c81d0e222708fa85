import { parentPort } from 'node:worker_threads';
import type { ResultMessage, Task, TaskMessage, TaskResult } from './protocol.js';
import { checkSpan, decodeGzip, decodeTar, inflateSpan } from './span-work.js';

const port = parentPort!;

function perform(task: Task): TaskResult {
  switch (task.type) {
    case 'check':
      return checkSpan(task);
    case 'inflate':
      return inflateSpan(task, task.kind === 'gzip' ? decodeGzip : decodeTar);
    default:
      return { status: 'failed', detail: `no such task: ${task.type}` };
  }
}

port.on('message', ({ id, task }: TaskMessage) => {
  let result: TaskResult;
  try {
    result = perform(task);
  } catch (error) {
    result = { status: 'failed', detail: error instanceof Error ? (error.stack ?? error.message) : String(error) };
  }
  const message: ResultMessage = { id, result };
  port.postMessage(message, result.status === 'bytes' ? [result.bytes.buffer as ArrayBuffer] : []);
});
