/**
 * A FUSE worker: waits on all mounts with epoll, answers what needs no waiting, and posts the rest to the thread that
 * started it. It never returns to Node's event loop, so messages are fetched by hand when the eventfd says so.
 */
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { ErofsReader } from '../erofs/index.js';
import { Epoll, Errno, flags, sys } from '../linux/index.js';
import { MAX_READ, OUT_HEADER } from './abi.js';
import { Dispatcher, Outcome, type ServedImage } from './dispatch.js';
import { Counter, type FromWorker, type FuseMountSpec, type ToWorker, type WorkerSetup } from './protocol.js';

const WAKE = 0xffff_ffff;
const MAX_EVENTS = 64;
/** Requests answered for one mount before the others get a look. */
const BURST = 32;
/** Causes of EIO that are reported one by one; the rest are only counted. */
const MAX_FAULT_REPORTS = 100;
const PAGE = 4096;
/** One request: max_write is 4 KiB; the rest lets the kernel put many FORGETs into one BATCH_FORGET. */
const REQUEST_SIZE = 64 * 1024;

interface Mount extends ServedImage {
  readonly id: number;
  readonly fd: number;
}

const setup = workerData as WorkerSetup;
const { counters, stop } = setup;
const epoll = new Epoll(MAX_EVENTS);
const mounts = new Map<number, Mount>();
let current: Mount;

// The reply's data starts on a page, so that the kernel copies whole pages from it; the header lies just before.
const memory = Buffer.allocUnsafeSlow(REQUEST_SIZE + 2 * PAGE + MAX_READ);
const base = sys.addressOf(memory);
const requestAddress = base;
const dataStart = Math.ceil((base + REQUEST_SIZE + OUT_HEADER) / PAGE) * PAGE - base;
const replyAddress = base + dataStart - OUT_HEADER;
const replyStart = dataStart - OUT_HEADER;
const dispatcher = new Dispatcher(
  memory.subarray(0, REQUEST_SIZE),
  memory.subarray(replyStart, replyStart + OUT_HEADER + MAX_READ),
  (fd, position, length, offset) => sys.pread(fd, replyAddress + position, length, offset),
);

function post(message: FromWorker): void {
  parentPort!.postMessage(message);
}

dispatcher.onFault = (error) => {
  counters[Counter.faults]!++;
  if (counters[Counter.faults]! <= MAX_FAULT_REPORTS) {
    post({ type: 'fault', mountId: current.id, cause: error instanceof Error ? error.message : String(error) });
  }
};

function attach(spec: FuseMountSpec): void {
  const reader = new ErofsReader(new Uint8Array(spec.tree));
  const mount = { id: spec.id, fd: spec.fd, reader, layers: spec.layers, placement: spec.placement };
  epoll.add(spec.fd, spec.id, true);
  mounts.set(spec.id, mount);
}

function detach(id: number): void {
  const mount = mounts.get(id);
  if (mount === undefined) return; // gone() was here
  mounts.delete(id);
  epoll.remove(mount.fd);
}

/** Somebody unmounted it, or aborted the connection. Left in epoll it would be reported for ever. */
function gone(mount: Mount, errno: number): void {
  detach(mount.id);
  post({ type: 'gone', mountId: mount.id, errno });
}

function takeMessages(): void {
  sys.read(setup.eventFd, requestAddress, 8);
  for (;;) {
    const received = receiveMessageOnPort(setup.control);
    if (received === undefined) return;
    const message = received.message as ToWorker;
    let error: string | null = null;
    try {
      if (message.type === 'attach') attach(message.mount);
      else detach(message.id);
    } catch (cause) {
      error = cause instanceof Error ? cause.message : String(cause);
    }
    post({ type: 'done', sequence: message.sequence, error });
  }
}

function serve(mount: Mount): void {
  current = mount;
  for (let i = 0; i < BURST; i++) {
    const length = sys.read(mount.fd, requestAddress, REQUEST_SIZE);
    if (length < 0) {
      if (length === -Errno.EAGAIN) return;
      // ENOENT: the request was interrupted while it was being read.
      if (length === -Errno.EINTR || length === -Errno.ENOENT) continue;
      gone(mount, -length);
      return;
    }
    counters[Counter.requests]!++;
    const outcome = dispatcher.handle(mount, length);
    if (outcome > 0) {
      const written = sys.write(mount.fd, replyAddress, outcome);
      // ENOENT: interrupted meanwhile. ENODEV: the next read says so.
      if (written < 0 && written !== -Errno.ENOENT && written !== -Errno.ENODEV) {
        dispatcher.onFault(new Error(`the kernel refused a reply: errno ${-written}`));
      }
    } else if (outcome === Outcome.miss) {
      counters[Counter.misses]!++;
      const { unique, missNid: nid, missOffset: offset, missSize: size } = dispatcher;
      post({ type: 'miss', miss: { mountId: mount.id, unique, nid, offset, size } });
    } else if (outcome === Outcome.interrupt) {
      counters[Counter.interrupts]!++;
      post({ type: 'interrupt', mountId: mount.id, own: dispatcher.unique, unique: dispatcher.interrupted });
    }
  }
}

epoll.add(setup.eventFd, WAKE, false);
post({ type: 'ready' });
while (Atomics.load(stop, 0) === 0) {
  const count = epoll.wait(-1);
  for (let i = 0; i < count; i++) {
    const token = epoll.token(i);
    if (token === WAKE) {
      takeMessages();
      continue;
    }
    const mount = mounts.get(token);
    if (mount === undefined) continue; // detached by an earlier event of this round
    if ((epoll.events(i) & flags.EPOLLIN) !== 0 || (epoll.events(i) & flags.EPOLLERR) !== 0) serve(mount);
  }
  const { readPath } = dispatcher;
  counters[Counter.hits] = readPath.hits;
  counters[Counter.hitBytes] = readPath.hitBytes;
  counters[Counter.spanHits] = readPath.spanHits;
  counters[Counter.changed] = readPath.changed;
}
epoll.close();
setup.control.close();
