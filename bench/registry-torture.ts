// npm run torture -- registry [--faults N --readers N]: readers of one layer, through the whole fetch path, while a proxy before a real
// registry injects faults. The short form is a test (test/e2e/registry-torture.test.ts).
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { SpanCache } from '../src/cache/index.js';
import { InflatePool, LayerSet } from '../src/lazy/index.js';
import { Metrics } from '../src/metrics/index.js';
import { mayPass, openImageSource } from '../src/oci/index.js';
import { LayoutBuilder, MEDIA } from '../test/support/layout.js';
import { type Fault, type ProxiedRequest, startProxy } from '../test/support/proxy.js';
import { LOGIN, type RegistryOptions, startRegistry } from '../test/support/registry.js';
import { compressibleBytes, gzipLayer } from '../test/support/span-layers.js';

export interface RegistryTortureOptions {
  /** In all, over the three registries. */
  readonly faults: number;
  readonly readers: number;
  /** How long the registry is away, once for each. */
  readonly awayMs: number;
  readonly log?: (line: string) => void;
}

export interface RegistryVerdict {
  readonly registry: string;
  readonly faults: Readonly<Record<string, number>>;
  readonly reads: number;
  readonly requests: number;
  /** 1.5 × the requests of as many reads without faults, and one for each fault. */
  readonly requestBound: number;
  readonly tokens: number;
  readonly wrongBytes: number;
  readonly failedReads: readonly string[];
  /** Requests that were made for spans that the cache held all the time. */
  readonly cachedRequests: number;
  readonly worstReadMs: number;
}

const SPAN = 64 * 1024;
const LAYER_BYTES = 40 << 20;
/** Small, so that most reads miss. */
const CACHE_BYTES = 2 << 20;
const READ_BYTES = 200_000;
/** The product's default read timeout is 300 s; no fault here lasts as long as this. */
const BUDGET_MS = 120_000;
/** In place of 30 and 10 s, so that a thousand stalls end in an afternoon. */
const IDLE_MS = 1500;
const FAULT_SHARE = 0.35;

const REGISTRIES: Readonly<Record<string, RegistryOptions>> = {
  htpasswd: { auth: 'basic' },
  'tokens of 5 s': { auth: 'token', tokenSeconds: 5 },
  'TLS, private CA': { auth: 'basic', tls: true },
};

/** A sequence of numbers in [0, 1) that is the same each time (mulberry32). */
function numbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Slow faults are rarer: each holds a reader for IDLE_MS. */
const KINDS: readonly (readonly [name: string, weight: number, fault: (at: number) => Fault])[] = [
  ['reset', 3, (at) => ({ resetAfter: at })],
  ['truncation', 3, (at) => ({ endAfter: at })],
  ['stall', 0.5, (at) => ({ stallAfter: at })],
  ['slow loris', 0.5, (at) => ({ dripAfter: at })],
  ['bit flip', 2, (at) => ({ corruptAt: at })],
  ['refused', 2, () => ({ refuse: true })],
  ['401', 2, () => ({ respond: { status: 401 } })],
  ['403', 2, () => ({ respond: { status: 403 } })],
  ['408', 1, () => ({ respond: { status: 408 } })],
  ['429', 2, () => ({ respond: { status: 429, headers: { 'retry-after': '0' } } })],
  ['500', 1, () => ({ respond: { status: 500 } })],
  ['502', 1, () => ({ respond: { status: 502 } })],
  ['503', 1, () => ({ respond: { status: 503, headers: { 'retry-after': '0' } } })],
  ['504', 1, () => ({ respond: { status: 504 } })],
  ['wrong range', 1, () => ({ range: 'bytes=1-2' })],
  ['ignored range', 0.1, () => ({ ignoreRange: true })],
];

/** Decides about each request for a blob. The storage is behind a redirect that ends now and then. */
class FaultInjector {
  readonly counts: Record<string, number> = {};
  readonly #random = numbers(7);
  readonly #total = KINDS.reduce((sum, [, weight]) => sum + weight, 0);
  injecting = false;
  away = false;
  challenge = '';

  get injected(): number {
    return Object.values(this.counts).reduce((sum, n) => sum + n, 0);
  }

  decide(request: ProxiedRequest): Fault | null {
    if (!request.path.includes('/blobs/')) return null;
    if (this.away) return this.#count('away', { refuse: true });
    if (!request.path.includes('signature=')) {
      const headers = { location: `${request.path}?signature=${Math.floor(this.#random() * 1e9)}` };
      return { respond: { status: 307, headers } };
    }
    if (!this.injecting || this.#random() > FAULT_SHARE) return null;
    let left = this.#random() * this.#total;
    for (const [name, weight, make] of KINDS) {
      left -= weight;
      if (left > 0) continue;
      const fault = make(Math.floor(this.#random() * 30_000));
      const { respond } = fault;
      if (respond?.status !== 401) return this.#count(name, fault);
      return this.#count(name, { respond: { ...respond, headers: { 'www-authenticate': this.challenge } } });
    }
    return null;
  }

  #count(name: string, fault: Fault): Fault {
    this.counts[name] = (this.counts[name] ?? 0) + 1;
    return fault;
  }
}

const layer = ((): (() => ReturnType<typeof gzipLayer>) => {
  let made: ReturnType<typeof gzipLayer> | null = null;
  return () => {
    made ??= gzipLayer(compressibleBytes(LAYER_BYTES), SPAN);
    return made;
  };
})();
let rawBytes: Uint8Array | null = null;
function raw(): Uint8Array {
  rawBytes ??= compressibleBytes(LAYER_BYTES);
  return rawBytes;
}

async function torture(name: string, options: RegistryTortureOptions): Promise<RegistryVerdict> {
  const directory = mkdtempSync(join(tmpdir(), 'clip-torture-'));
  const undo: (() => unknown)[] = [() => rmSync(directory, { recursive: true, force: true })];
  try {
    const registry = await startRegistry(REGISTRIES[name]);
    undo.push(() => registry.stop());
    const { blob, meta, ...opened } = layer();
    const layout = new LayoutBuilder();
    undo.push(() => layout.remove());
    const config = { os: 'linux', architecture: 'amd64', rootfs: { type: 'layers', diff_ids: [meta.diffId] } };
    const manifest = layout.manifest(layout.json(config, MEDIA.ociConfig), [layout.blob(blob, MEDIA.ociLayer)]);
    await registry.push(layout.tag(manifest, 'latest'), 'torture/layer:latest');

    const { certificates } = registry;
    const tls = REGISTRIES[name]!.tls === true && certificates !== null;
    const proxy = await startProxy({
      upstream: registry.url,
      ...(tls && { tls: { cert: readFileSync(certificates.serverCert), key: readFileSync(certificates.serverKey) } }),
    });
    undo.push(() => proxy.stop());
    const injector = new FaultInjector();
    const { tokens } = registry;
    injector.challenge =
      tokens === null
        ? 'Basic realm="clip tests"'
        : `Bearer realm="${tokens.realm}",service="${tokens.service}",scope="repository:torture/layer:pull"`;
    proxy.fault = (request) => injector.decide(request);

    const pool = new InflatePool({ workers: 2 });
    undo.push(() => pool.close());
    const openMachine = async (path: string, maxBytes: number) => {
      const metrics = new Metrics();
      const cache = await SpanCache.open(join(directory, path), { metrics, maxBytes });
      const set = new LayerSet({ cache, pool, metrics, readahead: false });
      const source = openImageSource(`${proxy.host}/torture/layer@${manifest.digest}`, {
        credentials: LOGIN,
        idleTimeoutMs: IDLE_MS,
        proxy: {},
        ...(tls && { ca: readFileSync(certificates.caCert, 'utf8') }),
      });
      const claim = set.open({ ...opened, meta, source });
      undo.push(async () => {
        claim.close();
        await source.close();
        cache.close();
      });
      return { claim, source };
    };
    const { claim, source } = await openMachine('cold', CACHE_BYTES);
    const cached = await openMachine('cached', 1 << 30);

    let [reads, wrongBytes, worstReadMs] = [0, 0, 0];
    const failedReads: string[] = [];
    const read = async (random: () => number): Promise<void> => {
      const start = Math.floor(random() * (LAYER_BYTES - READ_BYTES));
      const length = 1 + Math.floor(random() * READ_BYTES);
      const started = performance.now();
      for (;;) {
        try {
          const bytes = await claim.read(start, length);
          if (Buffer.compare(bytes, raw().subarray(start, start + length)) !== 0) wrongBytes++;
          break;
        } catch (error) {
          // As the reads of a mount do: what may pass is waited for, within the read timeout.
          const spent = performance.now() - started;
          if (!mayPass(error) || spent > BUDGET_MS) {
            failedReads.push(`bytes ${start} to ${start + length} after ${Math.round(spent)} ms: ${String(error)}`);
            break;
          }
          await sleep(100);
        }
      }
      reads++;
      worstReadMs = Math.max(worstReadMs, performance.now() - started);
    };
    const run = async (until: () => boolean): Promise<void> => {
      const readers = Array.from({ length: options.readers }, async (_, i) => {
        const random = numbers(1000 + i);
        while (!until()) await read(random);
      });
      await Promise.all(readers);
    };

    // Without faults: how many requests a read takes.
    const quiet = 30 * options.readers;
    await run(() => reads >= quiet);
    const perRead = source.counters.requests / reads;
    const hot = raw().subarray(0, 20 * SPAN);
    await cached.claim.read(0, hot.length);

    [reads] = [0];
    const [before, cachedBefore] = [source.counters.requests, cached.source.counters.requests];
    const wanted = Math.ceil(options.faults / Object.keys(REGISTRIES).length);
    injector.injecting = true;
    let done = false;
    const hits = (async () => {
      const random = numbers(3);
      while (!done) {
        const start = Math.floor(random() * (hot.length - 1000));
        const bytes = await cached.claim.read(start, 1000);
        if (Buffer.compare(bytes, hot.subarray(start, start + 1000)) !== 0) wrongBytes++;
        await sleep(5);
      }
    })();
    let leave = false;
    const outage = (async () => {
      while (injector.injected < wanted / 2) await sleep(5);
      injector.away = true;
      options.log?.(`${name}: ${injector.injected} faults; the registry is away`);
      await sleep(options.awayMs);
      injector.away = false;
      leave = true;
    })();
    await run(() => leave && injector.injected >= wanted);
    await outage;
    done = true;
    await hits;

    const faults = injector.injected;
    return {
      registry: name,
      faults: injector.counts,
      reads,
      requests: source.counters.requests - before,
      requestBound: Math.ceil(1.5 * perRead * reads + faults),
      tokens: source.counters.tokens,
      wrongBytes,
      failedReads,
      cachedRequests: cached.source.counters.requests - cachedBefore,
      worstReadMs: Math.round(worstReadMs),
    };
  } finally {
    for (const step of undo.reverse()) await step();
  }
}

export function isGood(verdict: RegistryVerdict): boolean {
  const { wrongBytes, failedReads, cachedRequests, requests, requestBound } = verdict;
  return wrongBytes === 0 && failedReads.length === 0 && cachedRequests === 0 && requests <= requestBound;
}

/** One registry after the other. */
export async function tortureRegistries(options: RegistryTortureOptions): Promise<RegistryVerdict[]> {
  const verdicts: RegistryVerdict[] = [];
  for (const name of Object.keys(REGISTRIES)) verdicts.push(await torture(name, options));
  return verdicts;
}
