/**
 * A FUSE worker: waits on all mounts with epoll, answers what needs no waiting, and posts the rest to the thread that
 * started it. It never returns to Node's event loop, so messages are fetched by hand when the eventfd says so.
 */
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import type { ConnectionId } from '../bytes/index.js';
import { ErofsReader } from '../erofs/index.js';
import { Epoll, Errno, releaseHeap, sys } from '../linux/index.js';
import { collectGarbage, keepCode } from '../loader/index.js';
import { Companion } from './companion.js';
import { Dispatcher, Outcome, type ServedImage } from './dispatch.js';
import { Leadership } from './leadership.js';
import { MountHits } from './mount-hits.js';
import { SpinPolicy } from './spin-policy.js';
import { REQUEST_SIZE, WorkerMemory } from './worker-memory.js';
import {
  type FromWorker,
  type FuseMountSpec,
  MAX_OPCODE,
  OPERATIONS,
  type ToWorker,
  WorkerCounter,
  type WorkerSetup,
} from './worker-protocol.js';

const WAKE = 0xffff_ffff;
const MAX_EVENTS = 64;
/** By then it has compiled what it is going to need. */
const WARM_REQUESTS = 200;
/** A pause in which a worker gives back memory that it does not need any more: a third of its heap after its start. */
const REST_MS = 1000;
/** Requests that leave little behind: a hit allocates nothing, a miss a message. */
const REST_AFTER = 1000;
/** Requests answered for one mount before the other mounts have their turn. */
const BURST = 32;
/** Causes of EIO that are reported one by one; the rest are only counted. */
const MAX_FAULT_REPORTS = 100;
interface Mount extends ServedImage {
  readonly id: ConnectionId;
  readonly fd: number;
  readonly hits: MountHits;
}

const setup = workerData as WorkerSetup;
const { counters, stop } = setup;
const epoll = new Epoll(MAX_EVENTS);
const leadership = new Leadership(setup.leadership, setup.index);
const companion = new Companion(setup.companion, setup.index);
const memory = new WorkerMemory();
const mounts = new Map<number, Mount>();
/** Whose request is being answered. Not the mount: its tree would stay in memory after it. */
let current: ConnectionId;
let warm = false;
/** A mount has gone since the last collection. */
let detached = false;
/** The number of requests at which it is worth to rest. */
let restDue = 0;
const policy = new SpinPolicy(setup.spin);

const abdicate = (): void => {
  companion.delay();
  leadership.abdicate();
};
const dispatcher = new Dispatcher(memory.request, memory.reply, (fd, position, length, offset) =>
  memory.readFile(fd, position, length, offset, abdicate),
);

function post(message: FromWorker): void {
  parentPort!.postMessage(message);
}

dispatcher.onFault = (error) => {
  counters[WorkerCounter.faults]!++;
  if (counters[WorkerCounter.faults]! <= MAX_FAULT_REPORTS) {
    post({ type: 'fault', mountId: current, cause: error instanceof Error ? error.message : String(error) });
  }
};

function attach(spec: FuseMountSpec): void {
  const reader = new ErofsReader(new Uint8Array(spec.tree));
  const hits = new MountHits(spec.hits);
  const { id, fd, layers, placement, kernelReads } = spec;
  const mount = { id, fd, reader, layers, placement, kernelReads, hits };
  epoll.add(spec.fd, spec.id, true);
  mounts.set(spec.id, mount);
}

function detach(id: ConnectionId): void {
  const mount = mounts.get(id);
  if (mount === undefined) return; // gone() was here
  mounts.delete(id);
  epoll.remove(mount.fd);
}

/** It was unmounted, or its connection aborted. Left in epoll it would be reported for ever. */
function gone(mount: Mount, errno: number): void {
  detach(mount.id);
  post({ type: 'gone', mountId: mount.id, errno });
}

function takeMessages(): void {
  sys.read(setup.eventFd, memory.requestAddress, 8);
  for (;;) {
    const received = receiveMessageOnPort(setup.control);
    if (received === undefined) break;
    const message = received.message as ToWorker;
    let error: string | null = null;
    try {
      if (message.type === 'attach') attach(message.mount);
      else {
        detach(message.id);
        detached = true;
      }
    } catch (cause) {
      error = cause instanceof Error ? cause.message : String(cause);
    }
    post({ type: 'done', sequence: message.sequence, error });
  }
}

/** Whether this thread has something to give back when it rests. */
function tired(): boolean {
  return counters[WorkerCounter.requests]! >= restDue;
}

/** No request has come for a while. */
function rest(): void {
  restDue = counters[WorkerCounter.requests]! + REST_AFTER;
  collect();
  releaseHeap();
}

/** This thread allocates next to nothing, so V8 would never collect: it would keep trees in shared memory for ever. */
function collect(): void {
  detached = false;
  dispatcher.forget();
  collectGarbage();
}

function serve(mount: Mount): void {
  current = mount.id;
  for (let i = 0; i < BURST; i++) {
    const length = sys.read(mount.fd, memory.requestAddress, REQUEST_SIZE);
    if (length < 0) {
      if (length === -Errno.EAGAIN) return;
      // ENOENT: the request was interrupted while it was being read.
      if (length === -Errno.EINTR || length === -Errno.ENOENT) continue;
      gone(mount, -length);
      return;
    }
    if (i > 0) leadership.callHelper(); // a queue has formed
    companion.taken(dispatcher.thread);
    counters[WorkerCounter.requests]!++;
    counters[OPERATIONS + Math.min(dispatcher.opcode, MAX_OPCODE)]!++;
    const { hits } = dispatcher.readPath;
    answer(mount, dispatcher.handle(mount, length));
    if (dispatcher.readPath.hits !== hits) mount.hits.add(setup.index);
    companion.answered(leadership.leader);
  }
}

function answer(mount: Mount, outcome: number): void {
  if (outcome > 0) {
    const written = sys.write(mount.fd, memory.replyAddress, outcome);
    // ENOENT: interrupted meanwhile. ENODEV: the next read says so.
    if (written < 0 && written !== -Errno.ENOENT && written !== -Errno.ENODEV) {
      dispatcher.onFault(new Error(`the kernel refused a reply: errno ${-written}`));
    }
  } else if (outcome === Outcome.miss) {
    counters[WorkerCounter.misses]!++;
    const { unique, thread, missNid: nid, missOffset: offset, missSize: size } = dispatcher;
    post({ type: 'miss', miss: { mountId: mount.id, unique, nid, offset, size, thread } });
  } else if (outcome === Outcome.interrupt) {
    counters[WorkerCounter.interrupts]!++;
    post({ type: 'interrupt', mountId: mount.id, own: dispatcher.unique, unique: dispatcher.interrupted });
  }
}

/** Waits for events as the leader. */
function wait(): number {
  if (!warm && counters[WorkerCounter.requests]! > WARM_REQUESTS) {
    warm = true;
    keepCode();
  }
  // Polling there would take the CPU from the thread that sends the requests.
  if (companion.join()) return sleep();
  for (let i = policy.spins; i > 0; i--) {
    const count = epoll.wait(0);
    if (count > 0) {
      policy.arrived(performance.now(), 0);
      return count;
    }
  }
  const start = performance.now();
  const count = sleep();
  const now = performance.now();
  policy.arrived(now, now - start);
  return count;
}

function sleep(): number {
  if (!tired()) return epoll.wait(-1);
  const count = epoll.wait(REST_MS);
  if (count === 0) {
    abdicate(); // resting takes 10 ms
    rest();
  }
  return count;
}

function publishCounters(): void {
  const { readPath } = dispatcher;
  counters[WorkerCounter.hits] = readPath.hits;
  counters[WorkerCounter.hitBytes] = readPath.hitBytes;
  counters[WorkerCounter.spanHits] = readPath.spanHits;
  counters[WorkerCounter.changed] = readPath.changed;
}

function serveEvents(count: number): void {
  for (let i = 0; i < count; i++) {
    const token = epoll.token(i);
    if (token === WAKE) {
      takeMessages();
      continue;
    }
    const mount = mounts.get(token); // none: detached by an earlier event of this round
    if (mount !== undefined) serve(mount);
  }
}

epoll.add(setup.eventFd, WAKE, false);
post({ type: 'ready' });
for (;;) {
  const ticket = leadership.ticket();
  if (Atomics.load(stop, 0) !== 0) break;
  const leads = leadership.lead();
  const count = leads ? wait() : epoll.wait(0);
  if (count === 0) {
    if (!leads) {
      companion.leave();
      if (!leadership.park(ticket, tired() ? REST_MS : undefined)) rest();
    }
    continue;
  }
  serveEvents(count);
  publishCounters();
  // Here, where no frame of the stack holds a mount any more.
  if (detached) collect();
}
epoll.close();
setup.control.close();
