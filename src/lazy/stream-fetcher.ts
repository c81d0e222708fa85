import type { SpanIndex } from '../bytes/index.js';
import { toHex } from '../bytes/index.js';
import type { Source } from '../metrics/index.js';
import type { LayerSpans } from '../spans/index.js';
import type { LayerContext } from './context.js';
import { Priority, type StreamTask, type TaskResult } from './inflate-tasks.js';
import type { JobCarrier, SpanFetcher, SpanJob } from './job.js';
import { RequestLimit } from './request-limit.js';
import type { SpanJobs } from './span-jobs.js';
import type { LayerProvider } from './types.js';

/** One request of a stream; the next leaves when its bytes are in, so the link is never idle for more than a round trip. */
const MAX_REQUEST_BYTES = 8 * 1024 * 1024;
/** Spans handed to the decoder and not decoded: bounds the compressed bytes in memory. */
const MAX_UNDECODED = 8;

let nextStream = 1;

/**
 * Spans of a layer that is one zstd frame. All images that share the layer share one decoder, until a reader has to wait for
 * another image's source: then its own image begins one.
 */
export class StreamFetchers implements SpanFetcher {
  readonly #jobs: SpanJobs;
  readonly #context: LayerContext;
  readonly #fetchers = new Map<LayerProvider, StreamFetcher>();

  constructor(jobs: SpanJobs, context: LayerContext) {
    this.#jobs = jobs;
    this.#context = context;
  }

  add(job: SpanJob): void {
    this.#fetcher(job).add(job);
  }

  #fetcher(job: SpanJob): StreamFetcher {
    const own = this.#fetchers.get(job.provider);
    if (own !== undefined) return own;
    const all = [...this.#fetchers.values()];
    const shared = job.rivalOf === null && job.mismatches === 0 ? all.find((fetcher) => fetcher.live) : undefined;
    if (shared !== undefined) return shared;
    const again = (other: SpanJob): void => this.add(other);
    const made = new StreamFetcher(job.provider, this.#jobs, this.#context, again);
    this.#fetchers.set(job.provider, made);
    return made;
  }

  providerLeft(provider: LayerProvider): void {
    const fetcher = this.#fetchers.get(provider);
    // One that is at work for other images goes on, from another source with its next request.
    if (fetcher?.idle !== true) return;
    fetcher.close();
    this.#fetchers.delete(provider);
  }

  close(): void {
    for (const fetcher of this.#fetchers.values()) fetcher.close();
  }
}

/**
 * The decoder of a layer that is one zstd frame: spans can only be decoded in order. A wanted span is decoded on the way there, and
 * so is everything before it, which is kept too. A span behind the decoder's position (evicted, or found damaged) makes it
 * start again from the first byte.
 */
class StreamFetcher implements JobCarrier {
  readonly #jobs: SpanJobs;
  readonly #context: LayerContext;
  readonly #wanted = new Map<number, SpanJob>();
  /** Spans that the content cache had wrong: they are not asked for there again. */
  readonly #poisoned = new Set<number>();
  /** Cut lookups short that a reader has come to wait for. */
  #hurries: (() => void)[] = [];
  /** The decoder's id; 0: there is none. */
  #stream = 0;
  /** The next span to be decoded. */
  #next = 0;
  #abort: AbortController | null = null;
  #running = false;

  constructor(
    /** Whose source is asked. */
    readonly provider: LayerProvider,
    jobs: SpanJobs,
    context: LayerContext,
    /** Takes a job whose bytes were wrong, to be fetched again. */
    readonly again: (job: SpanJob) => void,
  ) {
    this.#jobs = jobs;
    this.#context = context;
  }

  /** It has decoded something, or is about to: a span behind its position costs less here than from the layer's start. */
  get live(): boolean {
    return this.#stream !== 0 || this.#running;
  }

  get idle(): boolean {
    return this.#wanted.size === 0 && !this.#running;
  }

  add(job: SpanJob): void {
    job.phase = 'fetching';
    job.provider = this.provider;
    job.carrier = this;
    this.#wanted.set(job.span, job);
    job.onUrgent = () => this.#hurry();
    if (job.priority === Priority.demand) this.#hurry();
    if (this.#running) return;
    this.#running = true;
    // Spans of one read are asked for one after the other: see them all before the first request.
    setImmediate(() => void this.#jobs.track(this.#run()));
  }

  reconsider(): void {
    if (![...this.#wanted.values()].some((job) => job.wanted)) this.#abort?.abort();
  }

  async #run(): Promise<void> {
    try {
      for (;;) {
        for (const job of this.#wanted.values()) {
          if (!job.wanted) this.#jobs.abandon(this.#take(job));
        }
        if (this.#wanted.size === 0) return;
        await this.#advance();
      }
    } finally {
      this.#running = false;
    }
  }

  /** One request: from the decoder's position towards the furthest wanted span. */
  async #advance(): Promise<void> {
    const { spans } = this.#jobs;
    const wanted = [...this.#wanted.keys()];
    if (this.#stream === 0 || Math.min(...wanted) < this.#next) this.#restart();
    const first = this.#next;
    const furthest = Math.max(...wanted);
    let end = first + 1;
    while (end <= furthest && spans.compressedBytes(first, end + 1) <= MAX_REQUEST_BYTES) end++;
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    const limit = new RequestLimit(spans.compressedBytes(first, end), this.#abort);
    const undecoded = new Set<Promise<void>>();
    try {
      for await (const { compressed, shared } of this.#pieces(first, end, signal)) {
        const span = this.#next;
        if (this.#stream === 0) break; // an earlier span of this request was wrong
        this.#next++;
        const decoded = this.#decode(span, compressed, shared).finally(() => undecoded.delete(decoded));
        undecoded.add(decoded);
        if (undecoded.size >= MAX_UNDECODED) await Promise.race(undecoded);
      }
      await Promise.all(undecoded);
    } catch (error) {
      await Promise.allSettled(undecoded);
      this.#end();
      // Readers that joined after the request was given up are served by the next one.
      const outcome = limit.exceeded
        ? limit.error(`spans ${first} to ${end - 1} of layer ${spans.digest}`, error)
        : error;
      if (signal.aborted && !limit.exceeded) return;
      for (const job of this.#wanted.values()) this.#jobs.settle(this.#take(job), outcome);
    } finally {
      limit.end();
      this.#abort = null;
    }
  }

  /** The compressed bytes of spans [first, end), in order: from the content cache what it has, the rest from the registry. */
  async *#pieces(first: number, end: number, signal: AbortSignal): AsyncIterable<Piece> {
    const { spans, providers } = this.#jobs;
    const found = await this.#fromContentCache(first, end);
    for (let span = first; span < end; ) {
      const have = found[span - first];
      if (have) {
        yield { compressed: have, shared: true };
        span++;
        continue;
      }
      let stop = span + 1;
      while (stop < end && !found[stop - first]) stop++;
      const { source, blobSize: size } = providers.current(this.provider);
      this.#account(span, stop);
      const range = { start: spans.byteStart(span), end: spans.byteEnd(stop - 1) };
      let from: Source = 'registry';
      const onOrigin = (origin: Source): void => {
        from = origin;
        for (const job of this.#wanted.values()) job.source = origin;
      };
      const started = performance.now();
      const body = await source.fetchBlob(spans.digest, range, { signal, size, onOrigin });
      for await (const compressed of cut(body, spans, span, stop)) yield { compressed, shared: false };
      const fetchedAs = Math.min(Priority.fill, ...[...this.#wanted.values()].map((job) => job.priority)) as Priority;
      const fetched = Array.from({ length: stop - span }, (_, i) => ({ span: (span + i) as SpanIndex, fetchedAs }));
      this.#jobs.fetched(fetched, from, range.end - range.start, started);
      span = stop;
    }
  }

  /** What the content cache has of spans [first, end), by position. */
  async #fromContentCache(first: number, end: number): Promise<readonly (Uint8Array | null)[]> {
    const { content } = this.#context;
    if (content === null) return [];
    const { spans } = this.#jobs;
    const waiting = [...this.#wanted.values()].some((job) => job.priority === Priority.demand);
    const found = await Promise.all(
      Array.from({ length: end - first }, async (_, i) => {
        const span = first + i;
        if (this.#poisoned.has(span)) return null;
        const length = spans.compressedBytes(span, span + 1);
        const onUrgent = (hurry: () => void): number => this.#hurries.push(hurry);
        return await content.get(toHex(spans.sha256(span)), length, spans.digest, { waiting, onUrgent });
      }),
    );
    this.#hurries = [];
    return found;
  }

  #hurry(): void {
    for (const hurry of this.#hurries.splice(0)) hurry();
  }

  /** @param shared  it comes from the content cache */
  async #decode(span: SpanIndex, compressed: Uint8Array, shared: boolean): Promise<void> {
    const { spans, cached } = this.#jobs;
    const priority = this.#wanted.get(span)?.priority ?? Priority.readahead;
    const task: StreamTask = {
      type: 'stream',
      stream: this.#stream,
      compressed,
      sha256: spans.sha256(span),
      outLength: spans.length(span),
      crc32: spans.crc32(span),
      target: cached.present(span) ? null : this.#jobs.target(span, priority),
    };
    cached.hold(span);
    let result: TaskResult;
    try {
      result = await this.#context.pool.run(task, priority, this.provider.source);
    } catch (error) {
      this.#end();
      throw error;
    } finally {
      cached.unhold(span);
    }
    if (result.status === 'stored' || result.status === 'bytes') {
      if (!shared) this.#jobs.share(span, compressed);
      const job = this.#wanted.get(span);
      this.#jobs.keep(job === undefined ? null : this.#take(job), span, task.target, result);
      return;
    }
    // Nothing behind this span can be decoded. The reader of the first span that is wanted hears why.
    if (task.stream !== this.#stream) return;
    this.#end();
    if (shared) {
      // Readers are served by the next request, which asks the registry for it.
      this.#poisoned.add(span);
      this.#context.content?.poisoned(toHex(spans.sha256(span)));
      return;
    }
    const victim = this.#take(this.#first());
    if (this.#jobs.finish(victim, task.target, result)) this.again(victim);
  }

  #first(): SpanJob {
    return this.#wanted.get(Math.min(...this.#wanted.keys()))!;
  }

  /** Takes a job off the list. */
  #take(job: SpanJob): SpanJob {
    this.#wanted.delete(job.span);
    job.carrier = null;
    return job;
  }

  #restart(): void {
    this.#end();
    this.#stream = nextStream++;
    this.#next = 0;
  }

  #end(): void {
    if (this.#stream === 0) return;
    const stream = this.#stream;
    this.#stream = 0;
    this.#context.pool.run({ type: 'end-stream', stream }, Priority.demand, this.provider.source).catch(() => {
      // The worker is gone, and the decoder with it.
    });
  }

  #account(first: number, end: number): void {
    const fetchedAs = Math.min(...[...this.#wanted.values()].map((job) => job.priority)) as Priority;
    this.#jobs.accountFetch(Array.from({ length: end - first }, (_, i) => ({ span: first + i, fetchedAs })));
  }

  /** Frees the decoder. */
  close(): void {
    this.#abort?.abort();
    this.#end();
  }
}

interface Piece {
  readonly compressed: Uint8Array;
  /** From the content cache. */
  readonly shared: boolean;
}

/** Cuts a stream into the compressed bytes of spans [first, end), each in a buffer of its own. */
async function* cut(
  body: AsyncIterable<Uint8Array>,
  spans: LayerSpans,
  first: number,
  end: number,
): AsyncIterable<Uint8Array> {
  let span = first;
  const next = (): Uint8Array => new Uint8Array(new SharedArrayBuffer(spans.compressedBytes(span, span + 1)));
  let piece = next();
  let filled = 0;
  for await (const chunk of body) {
    for (let at = 0; at < chunk.length; ) {
      const n = Math.min(chunk.length - at, piece.length - filled);
      piece.set(chunk.subarray(at, at + n), filled);
      at += n;
      filled += n;
      if (filled < piece.length) continue;
      yield piece;
      if (++span === end) return;
      piece = next();
      filled = 0;
    }
  }
}
