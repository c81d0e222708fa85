import type { SpanIndex } from '../bytes/index.js';
import type { LayerSpans } from '../spans/index.js';
import { aheadRequest, joinGap, partGap, profileComing, profileRequest } from './ahead/policy.js';
import { PRIORITIES, Priority } from './inflate-tasks.js';
import type { JobCarrier, SpanJob } from './job.js';
import { type LinkCost, Links } from './link.js';
import type { BlobSource, LayerProvider } from './types.js';

/** What the queue needs of a layer. */
export interface QueuedLayer {
  readonly spans: LayerSpans;
  /** The job of a span if there is one. */
  job(span: SpanIndex): SpanJob | undefined;
  /** Fetches the spans' bytes in one request. Resolves, never rejects, when the request is over. */
  fetch(jobs: readonly SpanJob[]): Promise<void>;
  /** Ends a job that was waiting here and is not wanted any more. */
  abandon(job: SpanJob): void;
}

/** Requests in flight of a lone image; oci/ keeps as many connections. Requests of waiting readers may use them all. */
const MAX_REQUESTS = 32;
/**
 * Requests that an image may always have. Images share MAX_REQUESTS evenly, but one that comes late does not wait for those
 * before it to give requests back, because a dead registry never does. So the sum may exceed MAX_REQUESTS.
 */
const MIN_REQUESTS = 4;
/**
 * Of these, requests that no reader waits for. Spans that are needed first should arrive first, and not share the link with later
 * ones. Of a profile's requests this many fill a link of 1 Gbit/s and 20 ms (docs/benchmarks.md, "Why these constants").
 */
const MAX_BACKGROUND_REQUESTS = 8;
/** Compressed bytes of these that may be to come: a few large requests fill a link, and more would delay readers. */
const MAX_BACKGROUND_BYTES = 16 * 1024 * 1024;
/**
 * The same of a profile, whose order is known, by single ranges (else see profileComing): what is wanted first comes first if little else shares the link. 1 Gbit/s and 20 ms hold
 * 2.5 MB, 10 Gbit/s and 5 ms 6.3 MB. Two requests of the size below are on their way.
 */
const MAX_PROFILE_BYTES = 6 * 1024 * 1024;
/** Compressed bytes in flight or waiting for an inflate worker, beyond which nothing is fetched ahead. */
const MAX_BACKGROUND_UNINFLATED = 64 * 1024 * 1024;
/** Beyond this not even for readers, unless nothing else of the image is under way: all requests of the largest size. */
const MAX_UNINFLATED_BYTES = 256 * 1024 * 1024;
/** Fill is in no hurry. */
const MAX_FILL_REQUESTS = 2;
/** Spans of a profile share a request across gaps (joinGap) of this many spans: shaped spans can be as short as a page. */
const JOIN_GAP_SPANS = 32;
/**
 * Size of a request. Several requests in parallel fill a link better than one, and the inflate workers get work early; but each one
 * costs the registry CPU time (docs/benchmarks.md, "Why these constants").
 */
const MAX_REQUEST_BYTES = 8 * 1024 * 1024;

/** Of a profile's spans, by a single range: it brings them in their order in the layer, whichever is wanted first. Else see profileRequest. */
const MAX_PROFILE_REQUEST_BYTES = 3 * 1024 * 1024;
/**
 * Ranges of one request. Their header then has 1 kB, of the 8 kB that servers take, and Apache with its own settings answers
 * 200 ranges, but only 20 that lie before the one asked for before them.
 */
export const MAX_RANGES = 40;

/** What one image has waiting and under way. */
class Flow {
  readonly waiting: Map<SpanJob, QueuedLayer>[] = PRIORITIES.map(() => new Map());
  active = 0;
  background = 0;
  /** Compressed bytes that requests without a reader have asked for, and that have not come. */
  coming = 0;
  /** Compressed bytes of jobs that have left the queue and not ended. */
  uninflated = 0;

  get queued(): number {
    return this.waiting.reduce((sum, jobs) => sum + jobs.size, 0);
  }

  get idle(): boolean {
    return this.active === 0 && this.uninflated === 0 && this.queued === 0;
  }
}

/**
 * Spans that wait for a request. Neighbours of one layer go out together, more urgent ones first. A burst of misses is
 * seen whole before the first request leaves, because the queue is looked at when the event loop has delivered them all.
 *
 * Images take turns, and each has a share of the requests, so that a slow or dead registry holds up only its own image.
 */
export class FetchQueue implements JobCarrier {
  /** By source: each image has its own. */
  readonly #flows = new Map<BlobSource, Flow>();
  #scheduled = false;

  /** @param busy tells that more background work of an image would only pile up before the inflate workers */
  constructor(
    readonly busy: (source: BlobSource) => boolean,
    readonly links: Links = new Links(),
  ) {}

  get waiting(): number {
    let sum = 0;
    for (const flow of this.#flows.values()) sum += flow.queued;
    return sum;
  }

  get active(): number {
    let sum = 0;
    for (const flow of this.#flows.values()) sum += flow.active;
    return sum;
  }

  add(layer: QueuedLayer, job: SpanJob): void {
    job.phase = 'queued';
    job.carrier = this;
    this.#release(job);
    const { source } = job.provider;
    let flow = this.#flows.get(source);
    if (flow === undefined) {
      flow = new Flow();
      this.#flows.set(source, flow);
    }
    flow.waiting[job.priority]!.set(job, layer);
    this.wake();
  }

  reconsider(job: SpanJob): void {
    const layer = this.#remove(job);
    layer?.abandon(job);
  }

  /** A reader of another image wants what was only to be fetched ahead: it goes by the reader's own source, and does not wait for turns of the other. */
  takeOver(job: SpanJob, provider: LayerProvider): void {
    const layer = this.#remove(job);
    if (layer === undefined) return; // it is under way
    job.moveTo(provider);
    this.add(layer, job);
  }

  /** A waiting or running job has become more urgent. */
  raise(job: SpanJob, priority: Priority): void {
    const layer = this.#remove(job);
    job.priority = priority;
    if (layer !== undefined) this.add(layer, job);
  }

  /** A job has ended, which may let a request start. */
  ended(job: SpanJob): void {
    this.#release(job);
    this.wake();
  }

  /** A job's bytes have come: the next request is to leave before the link idles. */
  arrived(job: SpanJob): void {
    if (job.flow === null || job.comingBytes === 0) return;
    job.flow.coming -= job.comingBytes;
    job.comingBytes = 0;
    this.wake();
  }

  #release(job: SpanJob): void {
    if (job.flow === null) return;
    job.flow.uninflated -= job.fetchedBytes;
    job.flow.coming -= job.comingBytes;
    job.comingBytes = 0;
    job.flow = null;
  }

  /** Something has changed that may let a request start. */
  wake(): void {
    if (this.#scheduled || this.#flows.size === 0) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#pump();
    });
  }

  #remove(job: SpanJob): QueuedLayer | undefined {
    const jobs = this.#flows.get(job.provider.source)?.waiting[job.priority];
    const layer = jobs?.get(job);
    jobs?.delete(job);
    return layer;
  }

  #pump(): void {
    for (const [source, flow] of this.#flows) if (flow.idle) this.#flows.delete(source);
    for (const priority of PRIORITIES) {
      for (let started = true; started; ) {
        started = false;
        for (const [source, flow] of this.#flows) started = this.#startNext(source, flow, priority) || started;
      }
    }
  }

  #startNext(source: BlobSource, flow: Flow, priority: Priority): boolean {
    const next = flow.waiting[priority]!.entries().next();
    if (next.done) return false;
    const [job, layer] = next.value;
    const parts = goesInParts(job, priority, layer.spans);
    if (!this.#mayStart(source, flow, priority, parts)) return false;
    const bytes = layer.spans.compressedBytes(job.span, job.span + 1);
    if (flow.uninflated > 0 && flow.uninflated + bytes > MAX_UNINFLATED_BYTES / this.#flows.size) return false;
    const run = parts ? this.#runs(flow, layer, job, priority) : this.#run(flow, layer, job, priority);
    this.#start(flow, priority, layer, run);
    return true;
  }

  #mayStart(source: BlobSource, flow: Flow, priority: Priority, parts: boolean): boolean {
    const images = this.#flows.size;
    if (flow.active >= Math.max(MIN_REQUESTS, MAX_REQUESTS / images)) return false;
    if (priority === Priority.demand) return true;
    const most = priority === Priority.fill ? MAX_FILL_REQUESTS : MAX_BACKGROUND_REQUESTS;
    return (
      flow.background < Math.max(1, most / images) &&
      flow.coming < this.#mostComing(source, flow, priority, parts) / images &&
      flow.uninflated < MAX_BACKGROUND_UNINFLATED / images &&
      !this.busy(source)
    );
  }

  #mostComing(source: BlobSource, flow: Flow, priority: Priority, parts: boolean): number {
    const link = this.links.of(source);
    // Beside a reader's own request there is as much as the link carries in a round trip: what else is wanted soon leaves when that has come.
    if (flow.active > flow.background) return aheadRequest(link);
    if (priority !== Priority.prefetch) return MAX_BACKGROUND_BYTES;
    return parts ? profileComing(link) : MAX_PROFILE_BYTES;
  }

  /** The job, and others in the order in which they wait, each with its waiting neighbours: a request for several ranges. */
  #runs(flow: Flow, layer: QueuedLayer, job: SpanJob, priority: Priority): SpanJob[] {
    const { spans } = layer;
    const all = new Set<SpanJob>();
    const link = this.links.of(job.provider.source);
    let left = mostOfParts(priority, link);
    let ranges = 0;
    for (const [next, of] of flow.waiting[priority]!) {
      if (of !== layer || next.provider !== job.provider || next.mismatches > 0 || next.apart || all.has(next))
        continue;
      if (spans.compressedBytes(next.span, next.span + 1) > left && all.size > 0) break;
      // Neighbours are one range whatever their number: a sequential reader's.
      const most = all.size === 0 && !isKnown(priority) ? mostBytes(priority) : left;
      const run = this.#run(flow, layer, next, priority, most, all);
      for (const one of run) all.add(one);
      left -= spans.compressedBytes(run[0]!.span, run.at(-1)!.span + 1);
      if (++ranges === MAX_RANGES) break;
    }
    return [...all];
  }

  /**
   * The job and its waiting neighbours. A reader's request takes along what is fetched ahead of this reader, but nothing else.
   * @param taken jobs that the same request has already, as other ranges
   */
  #run(
    flow: Flow,
    layer: QueuedLayer,
    job: SpanJob,
    priority: Priority,
    most = mostBytes(priority),
    taken: ReadonlySet<SpanJob> | null = null,
  ): SpanJob[] {
    if (job.mismatches > 0) return [job]; // a second try goes alone: what was wrong may have been its neighbourhood
    const { spans } = layer;
    const run = [job];
    const limit = Math.max(priority, Priority.readahead);
    const across = isKnown(priority) && (priority === Priority.prefetch || taken !== null);
    const gapBytes = across ? (taken === null ? joinGap : partGap)(this.links.of(job.provider.source)) : 0;
    const joins = (other: SpanJob | undefined): other is SpanJob =>
      other !== undefined &&
      other.mismatches === 0 &&
      other.provider === job.provider &&
      (other.priority <= limit || (priority === Priority.demand && other.priority === Priority.speculation)) &&
      (taken === null || !(other.apart || taken.has(other))) &&
      flow.waiting[other.priority]!.has(other);
    /** The next one from `span` on, in steps of 1 or -1: the neighbour, or what lies across a small gap. */
    const next = (span: SpanIndex, step: 1 | -1): SpanJob | undefined => {
      if (!across) return layer.job(span);
      for (let at = span; at >= 0 && at < layer.spans.count && Math.abs(at - span) <= JOIN_GAP_SPANS; at += step) {
        const gap = step > 0 ? spans.byteStart(at) - spans.byteStart(span) : spans.byteEnd(span) - spans.byteEnd(at);
        if (gap > gapBytes) return undefined;
        const other = layer.job(at);
        if (joins(other)) return other;
      }
      return undefined;
    };
    const fits = (from: number, end: number): boolean => spans.compressedBytes(from, end) <= most;
    for (;;) {
      const [first, last] = [run[0]!.span, run.at(-1)!.span];
      const [before, after] = [next(first - 1, -1), next(last + 1, 1)];
      if (joins(after) && fits(first, after.span + 1)) run.push(after);
      else if (joins(before) && before.priority <= priority && fits(before.span, last + 1)) run.unshift(before);
      else return run;
    }
  }

  #start(flow: Flow, priority: Priority, layer: QueuedLayer, run: readonly SpanJob[]): void {
    const background = priority !== Priority.demand;
    flow.active++;
    if (background) flow.background++;
    for (const job of run) {
      flow.waiting[job.priority]!.delete(job);
      job.phase = 'fetching';
      job.carrier = null;
      job.fetchedAs = job.priority;
      job.flow = flow;
      job.fetchedBytes = layer.spans.compressedBytes(job.span, job.span + 1);
      flow.uninflated += job.fetchedBytes;
      job.comingBytes = background ? job.fetchedBytes : 0;
      flow.coming += job.comingBytes;
    }
    void layer.fetch(run).finally(() => {
      flow.active--;
      if (background) flow.background--;
      this.wake();
    });
  }
}

function mostBytes(priority: Priority): number {
  return priority === Priority.prefetch ? MAX_PROFILE_REQUEST_BYTES : MAX_REQUEST_BYTES;
}

/** Bytes of a request for several ranges. */
function mostOfParts(priority: Priority, link: LinkCost): number {
  if (priority === Priority.fill) return MAX_REQUEST_BYTES;
  return priority === Priority.prefetch ? profileRequest(link) : aheadRequest(link);
}

/** All of it is going to be fetched. */
function isKnown(priority: Priority): boolean {
  return priority === Priority.prefetch || priority === Priority.fill;
}

/**
 * Whether a job may share a request with ranges elsewhere in its layer. Only what no reader waits for: the first such request tells whether
 * the source answers it.
 */
export function goesInParts(job: SpanJob, priority: Priority, { digest }: LayerSpans): boolean {
  const background = priority !== Priority.demand;
  return background && job.mismatches === 0 && !job.apart && job.provider.source.takesParts?.(digest) === true;
}

/**
 * Cuts a list of jobs into runs, where the next one lies elsewhere in the layer or what is missing between them (the content cache had it, say)
 * is more than a small gap. Each run is in span order.
 */
export function neighbours(jobs: readonly SpanJob[], spans: LayerSpans, gapBytes: number): SpanJob[][] {
  const runs: SpanJob[][] = [];
  for (const job of jobs) {
    const run = runs.at(-1);
    const last = run?.at(-1)?.span ?? Number.NaN;
    const gap = job.priority >= Priority.prefetch && spans.byteStart(job.span) - spans.byteEnd(last) <= gapBytes;
    if (run !== undefined && (last + 1 === job.span || (last < job.span && gap))) run.push(job);
    else runs.push([job]);
  }
  return runs;
}
