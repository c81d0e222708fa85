import { availableParallelism } from 'node:os';
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads';
import type { ConnectionId } from '../bytes/index.js';
import { closeFd, createEventFd, Errno, errnoName, signalEventFd } from '../linux/index.js';
import { FUSE_OPERATIONS } from '../metrics/index.js';
import { Op } from './abi.js';
import { Companion } from './companion.js';
import { LEADERSHIP_WORDS, Leadership } from './leadership.js';
import { MAX_FUSE_WORKERS } from './mount-hits.js';
import { replyError, requestResend } from './replies.js';
import {
  COUNTERS,
  type FromWorker,
  type FuseCounters,
  type FuseMountSpec,
  MAX_OPCODE,
  OPERATIONS,
  type ReadMiss,
  type ToWorker,
  WorkerCounter,
  type WorkerSetup,
} from './worker-protocol.js';

/** What a pool may be told after its first thread was started. */
export interface FusePoolSettings {
  /** Default: one per core, at most 4. */
  workers?: number;
  /** False: act as on a kernel that cannot send requests again (Linux < 6.9). For tests. */
  resend?: boolean;
}

export interface FusePoolOptions extends FusePoolSettings {
  /** A read that the cache cannot answer. Must be answered, once. */
  onMiss(miss: ReadMiss): void;
  /**
   * The caller of a missed read waits no longer: answer it with EINTR at once. Return false when no such read is pending (it
   * may just have been answered, or be on its way here): then the kernel is told to ask again if it still matters.
   */
  onInterrupt(mountId: number, unique: bigint): boolean;
  /** The connection has ended: it was unmounted. Called once per mount; detach() it, then close its descriptor. */
  onGone(mountId: number, reason: string): void;
  /** Why a request was answered with EIO (a damaged tree). The first hundred of each worker; all are counted. */
  onFault?(mountId: number, cause: string): void;
  /** A worker died, and with it the requests in its hands. Default: throw, because only a new server process can ask for them again. */
  onFailure?(error: Error): void;
}

interface PoolWorker {
  /** It waits for work. */
  ready: boolean;
  readonly thread: Worker;
  readonly control: MessagePort;
  readonly eventFd: number;
  readonly stop: Int32Array;
  readonly counters: Float64Array;
  readonly exited: Promise<void>;
}

interface Acknowledgement {
  remaining: number;
  error: string | null;
  resolve(error: string | null): void;
}

const KINDS: ReadonlyMap<number, (typeof FUSE_OPERATIONS)[number]> = new Map([
  [Op.READ, 'read'],
  [Op.LOOKUP, 'lookup'],
  [Op.GETATTR, 'getattr'],
  [Op.READDIR, 'readdir'],
  [Op.READDIRPLUS, 'readdir'],
  [Op.READLINK, 'readlink'],
  [Op.GETXATTR, 'xattr'],
  [Op.LISTXATTR, 'xattr'],
  [Op.STATFS, 'statfs'],
]);

function kindOf(opcode: number): (typeof FUSE_OPERATIONS)[number] {
  return KINDS.get(opcode) ?? 'other';
}

/** A worker answers its request long before. A request that is unknown after this many tries was lost with a server. */
const LOST_AFTER_TRIES = 5;
const LOST_RETRY_MS = 20;

/** Upper bound of the default: FUSE requests are short, and more threads only take turns on the kernel's queue lock. */
const MAX_DEFAULT_WORKERS = 4;

/** A fixed set of worker threads that together serve any number of mounts. */
export class FusePool {
  readonly #options: FusePoolOptions;
  #settings: FusePoolSettings;
  readonly #workers: PoolWorker[] = [];
  readonly #specs = new Map<number, FuseMountSpec>();
  /** Mounts whose requests of a dead server were not sent again: how often each has been interrupted since. */
  readonly #unsent = new Map<number, Map<bigint, number>>();
  readonly #pending = new Map<number, Acknowledgement>();
  readonly #leadership = new Int32Array(new SharedArrayBuffer(LEADERSHIP_WORDS * 4));
  readonly #companion: Int32Array;
  #started: Promise<void> | null = null;
  #completed: Promise<void> | null = null;
  #sequence = 0;
  #closing = false;
  #failed = false;
  // A worker blocked in epoll_wait would keep the process from exiting.
  readonly #onExit = (): void => this.#stopWorkers();

  constructor(options: FusePoolOptions) {
    this.#options = options;
    this.#settings = options;
    this.#companion = new Int32Array(new SharedArrayBuffer(Companion.words(MAX_FUSE_WORKERS) * 4));
  }

  /** Before the first mount. */
  configure(settings: FusePoolSettings): void {
    this.#settings = settings;
  }

  /**
   * Starts the first thread; resolves when it waits for work. One is enough to answer a first mount, and the others would only take
   * the cores from it while they boot.
   */
  start(): Promise<void> {
    if (this.#started === null) {
      process.on('exit', this.#onExit);
      this.#started = this.#startWorker(1);
    }
    return this.#started;
  }

  /** Starts the rest; resolves when all wait for work. */
  complete(): Promise<void> {
    this.#completed ??= this.start().then(async () => {
      const others = this.#closing ? [] : Array.from({ length: this.workerCount - 1 }, (_, i) => i + 2);
      await Promise.all(others.map((index) => this.#startWorker(index)));
    });
    return this.#completed;
  }

  #startWorker(index: number): Promise<void> {
    const { port1, port2 } = new MessageChannel();
    const setup: WorkerSetup = {
      index,
      leadership: this.#leadership,
      companion: this.#companion,
      spin: availableParallelism() > 1,
      stop: new Int32Array(new SharedArrayBuffer(4)),
      eventFd: createEventFd(),
      counters: new Float64Array(new SharedArrayBuffer(COUNTERS * 8)),
      control: port2,
    };
    const thread = new Worker(new URL('./worker.js', import.meta.url), {
      workerData: setup,
      transferList: [port2],
      name: 'fuse',
      execArgv: [], // options like --input-type are not for threads
      // Hits allocate nothing, misses a message each.
      resourceLimits: { maxYoungGenerationSizeMb: 3, maxOldGenerationSizeMb: 64 },
    });
    port1.unref();
    let exit = (): void => {};
    const exited = new Promise<void>((resolve) => {
      exit = resolve;
    });
    const worker: PoolWorker = {
      ready: false,
      thread,
      control: port1,
      eventFd: setup.eventFd,
      stop: setup.stop,
      counters: setup.counters,
      exited,
    };
    this.#workers.push(worker);
    return new Promise((resolve, reject) => {
      const fail = (error: Error): void => {
        reject(error);
        if (this.#closing || this.#failed) return;
        this.#failed = true; // "exit" follows "error"
        if (this.#options.onFailure) this.#options.onFailure(error);
        else
          process.nextTick(() => {
            throw error;
          });
      };
      thread.on('message', (message: FromWorker) => {
        if (message.type === 'ready') {
          this.#join(worker);
          resolve();
        } else this.#onMessage(message);
      });
      thread.on('error', fail);
      thread.on('exit', (code) => {
        exit();
        if (!this.#closing) fail(new Error(`a FUSE worker left with code ${code}`));
      });
    });
  }

  /** Its answers are not waited for, because the first worker has accepted these mounts. */
  #join(worker: PoolWorker): void {
    worker.ready = true;
    for (const mount of this.#specs.values()) this.#post(worker, { type: 'attach', sequence: 0, mount });
    Leadership.callAll(this.#leadership);
  }

  #post(worker: PoolWorker, message: ToWorker): void {
    worker.control.postMessage(message);
    signalEventFd(worker.eventFd);
  }

  #onMessage(message: Exclude<FromWorker, { type: 'ready' }>): void {
    switch (message.type) {
      case 'miss':
        this.#options.onMiss(message.miss);
        break;
      case 'interrupt': {
        const fd = this.#specs.get(message.mountId)?.fd;
        if (fd === undefined || this.#options.onInterrupt(message.mountId, message.unique)) break;
        this.#interruptUnknown(message.mountId, fd, message.own, message.unique);
        break;
      }
      case 'gone': // reported by every worker
        if (this.#specs.delete(message.mountId)) {
          this.#options.onGone(message.mountId, errnoName(message.errno));
        }
        break;
      case 'fault':
        this.#options.onFault?.(message.mountId, message.cause);
        break;
      case 'done': {
        const acknowledgement = this.#pending.get(message.sequence);
        if (acknowledgement === undefined) break;
        acknowledgement.error ??= message.error;
        if (--acknowledgement.remaining > 0) break;
        this.#pending.delete(message.sequence);
        acknowledgement.resolve(acknowledgement.error);
        break;
      }
    }
  }

  /**
   * To an INTERRUPT, EAGAIN means: not known, queue it again; the kernel drops it if the request has been answered. A request
   * that a dead server took with it on a kernel that cannot send again never will be, and its caller could not even be
   * killed: after a while it gets EINTR.
   */
  #interruptUnknown(mountId: number, fd: number, own: bigint, unique: bigint): void {
    const unsent = this.#unsent.get(mountId);
    if (unsent === undefined) {
      replyError(fd, own, Errno.EAGAIN);
      return;
    }
    const tries = (unsent.get(unique) ?? 0) + 1;
    if (tries <= LOST_AFTER_TRIES) {
      unsent.set(unique, tries);
      setTimeout(() => {
        if (this.#specs.get(mountId)?.fd === fd) replyError(fd, own, Errno.EAGAIN);
      }, LOST_RETRY_MS);
    } else {
      unsent.delete(unique);
      replyError(fd, unique, Errno.EINTR);
    }
  }

  /** Posts to every worker that is ready and waits until all have done it. */
  async #tell(message: (sequence: number) => ToWorker): Promise<void> {
    const workers = this.#workers.filter((worker) => worker.ready);
    if (workers.length === 0) return; // not started, or closed
    const sequence = ++this.#sequence;
    const done = new Promise<string | null>((resolve) => {
      this.#pending.set(sequence, { remaining: workers.length, error: null, resolve });
    });
    for (const worker of workers) this.#post(worker, message(sequence));
    Leadership.callAll(this.#leadership);
    const error = await done;
    if (error !== null) throw new Error(error);
  }

  /**
   * Serves a mount from now on.
   * @returns whether the kernel was asked to resend the requests of a dead server; always true unless `spec.resumed`
   * @throws when the tree is not a valid image
   */
  async attach(spec: FuseMountSpec): Promise<{ resent: boolean }> {
    if (this.#started === null || this.#closing) throw new Error('the FUSE pool is not running');
    await this.#started;
    const resent = !spec.resumed || ((this.#settings.resend ?? true) && requestResend(spec.fd));
    this.#specs.set(spec.id, spec);
    if (!resent) this.#unsent.set(spec.id, new Map());
    try {
      await this.#tell((sequence) => ({ type: 'attach', sequence, mount: spec }));
    } catch (error) {
      await this.detach(spec.id);
      throw error;
    }
    return { resent };
  }

  /** After it no worker touches the mount's descriptor. Misses that are pending may still be answered until it is closed. */
  async detach(id: ConnectionId): Promise<void> {
    this.#specs.delete(id);
    this.#unsent.delete(id);
    if (!this.#closing) await this.#tell((sequence) => ({ type: 'detach', sequence, id }));
  }

  /** The intended number of workers. */
  get workerCount(): number {
    return this.#settings.workers ?? Math.min(MAX_DEFAULT_WORKERS, availableParallelism());
  }

  /** Sums over the workers since start. */
  stats(): FuseCounters {
    const sums = {} as FuseCounters;
    for (const [name, index] of Object.entries(WorkerCounter) as [keyof FuseCounters, number][]) {
      sums[name] = this.#workers.reduce((sum, worker) => sum + worker.counters[index]!, 0);
    }
    return sums;
  }

  /** Requests so far, by kind of operation. */
  operations(): Record<(typeof FUSE_OPERATIONS)[number], number> {
    const sums = Object.fromEntries(FUSE_OPERATIONS.map((name) => [name, 0])) as ReturnType<FusePool['operations']>;
    for (const { counters } of this.#workers) {
      for (let opcode = 0; opcode <= MAX_OPCODE; opcode++) sums[kindOf(opcode)] += counters[OPERATIONS + opcode]!;
    }
    return sums;
  }

  #stopWorkers(): void {
    this.#closing = true;
    for (const worker of this.#workers) {
      Atomics.store(worker.stop, 0, 1);
      signalEventFd(worker.eventFd);
    }
    Leadership.callAll(this.#leadership);
  }

  /** Stops all threads. Mounts stay mounted and unanswered: unmount them first, or let another server take over. */
  async close(): Promise<void> {
    this.#stopWorkers();
    process.off('exit', this.#onExit);
    await Promise.all(this.#workers.map((worker) => worker.exited));
    // Callers that wait for a worker to release a mount: it has.
    for (const acknowledgement of this.#pending.values()) acknowledgement.resolve(acknowledgement.error);
    this.#pending.clear();
    for (const worker of this.#workers) {
      closeFd(worker.eventFd);
      worker.control.close();
    }
    this.#workers.length = 0;
  }
}
