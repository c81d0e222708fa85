import { stateDigest } from '../archive/index.js';
import { FormatError, toHex } from '../bytes/index.js';
import { NO_STATE } from '../gzip/index.js';
import { neighbours } from './fetch-queue.js';
import { type InflateTask, Priority, type TaskResult } from './inflate-tasks.js';
import { abandoned, type SpanJob } from './job.js';
import type { LayerContext } from './layer-set.js';
import type { LazyLayer } from './lazy-layer.js';
import { RangeRequest } from './range-request.js';
import type { LayerProvider } from './types.js';

/**
 * Sources asked for a span before its readers get an error. Each has retried by itself, and most often several archives of a
 * layer lead to the same registry: more would only make readers wait.
 */
const MAX_SOURCES = 2;

/** Spans that stand on their own: from the content cache or by Range requests to the workers that check and inflate them. */
export class SpanFetcher {
  readonly #layer: LazyLayer;
  readonly #context: LayerContext;

  constructor(layer: LazyLayer, context: LayerContext) {
    this.#layer = layer;
    this.#context = context;
  }

  /** Resolves, never rejects, when the requests are over; the jobs end when their spans are stored. */
  async fetch(jobs: readonly SpanJob[]): Promise<void> {
    const layer = this.#layer;
    const missing = await this.#fromContentCache(jobs);
    await Promise.all(neighbours(missing, layer).map((run) => this.#request(run)));
  }

  /** Starts what the content cache has on its way; returns the rest that somebody still wants. */
  async #fromContentCache(jobs: readonly SpanJob[]): Promise<readonly SpanJob[]> {
    const layer = this.#layer;
    const { content, buffers } = this.#context;
    if (content === null) return jobs;
    // Those of one request wait for each other: a reader who comes to wait for one of them hurries all.
    const hurries: ((() => void) | undefined)[] = [];
    const found = await Promise.all(
      jobs.map(async (job, i) => {
        if (job.content === 'poisoned') return false;
        const length = layer.compressedBytes(job.span, job.span + 1);
        const bytes = await content.get(toHex(layer.sha256(job.span)), length, layer.meta.digest, {
          waiting: job.priority === Priority.demand,
          onUrgent: (hurry) => {
            hurries[i] = hurry;
            job.onUrgent = () => {
              for (const one of hurries) one?.();
            };
          },
        });
        if (bytes === null) return false;
        job.content = 'used';
        const buffer = buffers.acquire(length);
        const compressed = new Uint8Array(buffer, 0, length);
        compressed.set(bytes);
        void layer.track(this.#inflate(job, compressed)).finally(() => buffers.release(buffer));
        return true;
      }),
    );
    return jobs.filter((job, i) => {
      if (found[i]) return false;
      if (job.wanted) return true;
      layer.settle(job, abandoned(layer.name(job.span)));
      return false;
    });
  }

  async #request(jobs: readonly SpanJob[]): Promise<void> {
    const layer = this.#layer;
    const { counters, buffers, activity } = this.#context;
    const request = new RangeRequest({
      digest: layer.meta.digest,
      blobSize: layer.meta.size,
      jobs,
      start: (job) => layer.byteStart(job.span),
      end: (job) => layer.byteEnd(job.span),
      deliver: (job, compressed, done) => void layer.track(this.#inflate(job, compressed)).finally(done),
    });
    try {
      const provider = layer.provider(jobs[0]!.provider);
      if (provider === undefined) throw abandoned(`layer ${layer.meta.digest}`);
      counters.requests.add();
      layer.accountFetch(jobs);
      await request.run(provider.source, buffers, activity);
    } catch (error) {
      for (const job of request.missing) {
        job.carrier = null;
        // Somebody may have joined after the request was given up.
        if (job.wanted && (request.aborted || this.#elsewhere(job, error))) this.#context.queue.add(layer, job);
        else layer.settle(job, request.aborted ? abandoned(layer.name(job.span)) : error);
      }
    }
  }

  /** Whether to ask another archive's source for what this one does not give. */
  #elsewhere(job: SpanJob, error: unknown): boolean {
    const { log, counters } = this.#context;
    const layer = this.#layer;
    if (++job.failures >= Math.min(MAX_SOURCES, layer.providers)) return false;
    counters.failovers.add();
    log.warn({ layer: layer.meta.digest, span: job.span, error: String(error) }, 'asking another source for a span');
    job.provider++;
    return true;
  }

  async #inflate(job: SpanJob, compressed: Uint8Array): Promise<void> {
    const layer = this.#layer;
    job.phase = 'inflating';
    const { span } = job;
    const { table } = layer;
    if (table.kind === 'zstd-stream') throw new Error('sequential spans go through the stream fetcher');
    try {
      const target = layer.target(span, job.priority);
      if (target.fd < 0 && job.waiters === 0 && job.priority >= Priority.prefetch && layer.cached.attached) {
        this.#context.counters.skippedBackground.add();
        layer.settle(job, abandoned(layer.name(span)));
        return;
      }
      const task: Omit<InflateTask, 'state'> = {
        type: 'inflate',
        kind: table.kind,
        compressed,
        sha256: layer.sha256(span),
        startBit: table.bitOffset[span]! % 8,
        outLength: layer.cached.length(span),
        crc32: table.crc32[span]!,
        target,
      };
      const result = await this.#inflateWithAnyState(job, task);
      const good = result.status === 'stored' || result.status === 'bytes';
      if (good && job.content !== 'used') layer.share(span, compressed);
      layer.finish(job, target, result);
    } catch (error) {
      layer.settle(job, error);
    }
  }

  /**
   * Each archive that shares the layer has a checkpoint state for the span. They agree, unless one archive is damaged or
   * forged: then another archive's state is used, so that no archive can take the layer from the others.
   */
  async #inflateWithAnyState(job: SpanJob, task: Omit<InflateTask, 'state'>): Promise<TaskResult> {
    const layer = this.#layer;
    const { log } = this.#context;
    for (let tried = 1; ; tried++) {
      const result = await this.#inflateWithState(job, task, layer.provider(job.provider + tried - 1));
      if (result.status !== 'bad-state') return result;
      log.error({ layer: layer.meta.digest, span: job.span, detail: result.detail }, 'a checkpoint state is wrong');
      if (tried >= layer.providers) return result;
    }
  }

  #inflateWithState(
    job: SpanJob,
    task: Omit<InflateTask, 'state'>,
    provider: LayerProvider | undefined,
  ): TaskResult | Promise<TaskResult> {
    let stored: Uint8Array;
    try {
      stored = provider?.readState(job.span) ?? NO_STATE.stored;
    } catch (error) {
      if (error instanceof FormatError) return { status: 'bad-state', detail: error.message };
      throw error;
    }
    const whole: InflateTask = { ...task, state: { stored, sha256: stateDigest(this.#layer.table, job.span) } };
    job.task = whole;
    return this.#context.pool.run(whole, job.priority);
  }
}
