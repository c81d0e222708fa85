import { PRIORITIES, type Priority, type Task, type TaskResult } from './inflate-tasks.js';

export interface Pending {
  readonly id: number;
  readonly task: Task;
  /** The image for which it is done. Images take turns. */
  readonly owner: object;
  priority: Priority;
  readonly resolve: (result: TaskResult) => void;
  readonly reject: (error: unknown) => void;
}

/** Output bytes of a task, most of its time. */
export function outputBytes(task: Task): number {
  return task.type === 'end-stream' ? 0 : task.outLength;
}

/** Tasks that wait for a worker: by priority, and within one the images in turn, each with its tasks in order. */
export class TaskQueue {
  readonly #queues: Map<object, Pending[]>[] = PRIORITIES.map(() => new Map());
  readonly #bytes = new Map<object, number>();
  #length = 0;

  get length(): number {
    return this.#length;
  }

  /** Output of the tasks of one image. */
  bytesOf(owner: object): number {
    return this.#bytes.get(owner) ?? 0;
  }

  push(pending: Pending): void {
    const queue = this.#queues[pending.priority]!;
    const tasks = queue.get(pending.owner);
    if (tasks === undefined) queue.set(pending.owner, [pending]);
    else tasks.push(pending);
    this.#count(pending, 1);
  }

  /** False: the task does not wait here. */
  raise(task: Task, priority: Priority): boolean {
    for (const queue of this.#queues.slice(priority + 1)) {
      for (const [owner, tasks] of queue) {
        const at = tasks.findIndex((pending) => pending.task === task);
        if (at < 0) continue;
        const [pending] = tasks.splice(at, 1);
        if (tasks.length === 0) queue.delete(owner);
        this.#count(pending!, -1);
        pending!.priority = priority;
        this.push(pending!);
        return true;
      }
    }
    return false;
  }

  /** Takes the first task that `fits`, an image's first one or none of it. Its image is the last in turn from then on. */
  take(fits: (pending: Pending) => boolean): Pending | null {
    for (const queue of this.#queues) {
      for (const [owner, tasks] of queue) {
        if (!fits(tasks[0]!)) continue;
        const pending = tasks.shift()!;
        queue.delete(owner);
        if (tasks.length > 0) queue.set(owner, tasks);
        this.#count(pending, -1);
        return pending;
      }
    }
    return null;
  }

  clear(): Pending[] {
    const all = this.#queues.flatMap((queue) => [...queue.values()].flat());
    for (const queue of this.#queues) queue.clear();
    this.#bytes.clear();
    this.#length = 0;
    return all;
  }

  #count({ owner, task }: Pending, sign: 1 | -1): void {
    this.#length += sign;
    const bytes = this.bytesOf(owner) + sign * outputBytes(task);
    if (bytes === 0) this.#bytes.delete(owner);
    else this.#bytes.set(owner, bytes);
  }
}
