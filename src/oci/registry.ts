import { ClipError } from '../bytes/index.js';
import { ArtifactRepository } from './artifacts.js';
import { BlobSpool } from './blob-spool.js';
import { type BlobRange, rangesAfter } from './byte-ranges.js';
import type { ClientOptions } from './client.js';
import { digestOf, verifyDigest } from './digest.js';
import { aborted, networkError } from './errors.js';
import { type Capability, DEFAULT_HOSTS_DIRECTORY, hostsFor } from './hosts.js';
import { type Descriptor, MAX_MANIFEST_BYTES, parseJsonObject, parseManifest } from './manifest.js';
import { ACCEPT_MANIFESTS } from './media-types.js';
import { MemoryTarget } from './memory-target.js';
import { checkContentRange, checkRange, checkWhole, MAX_SKIP_BYTES, refuseEncoding, shortBody } from './ranges.js';
import type { RegistryReference } from './reference.js';
import { RegistryHosts } from './registry-hosts.js';
import { type ContentReader, type ResolvedImage, type ResolveOptions, resolveImage } from './resolve.js';
import type { Backoff } from './retry.js';
import type {
  BlobOptions,
  BlobTarget,
  ByteRange,
  FillOptions,
  ImageSource,
  ScanOptions,
  SourceCounters,
} from './source.js';
import type { Response } from './transport.js';
import { countWrongAnswer } from './wrong-answers.js';

const MAX_TAGS_SHOWN = 20;
/** Blobs kept whole on the disk for a server without ranges: as many as are read at a time, mostly. */
const MAX_SPOOLS = 8;
const IDENTITY = { 'accept-encoding': 'identity' };

/** A response to a blob request: what to skip of it, and how much is then wanted (null: all). */
interface Opened {
  readonly response: Response;
  /** The host failed while the body was read. */
  failed(): void;
  readonly skip: number;
  readonly length: number | null;
}

/** A small body, all of it. */
interface Small {
  readonly bytes: Uint8Array;
  readonly response: Response;
}

/** An image in a registry: distribution-spec v1.1, pull. */
export class RegistrySource implements ImageSource {
  readonly reference: RegistryReference;
  readonly remote = true;
  readonly counters: SourceCounters = { requests: 0, bytes: 0, retries: 0, redirects: 0, tokens: 0 };
  readonly #options: ClientOptions;
  #artifacts: Promise<ArtifactRepository> | null = null;
  #hosts: Promise<RegistryHosts> | null = null;
  /** The same, when it is there. */
  #known: RegistryHosts | null = null;
  /** By digest, the one used last at the end. */
  readonly #spools = new Map<string, BlobSpool>();

  constructor(reference: RegistryReference, options: ClientOptions) {
    this.reference = reference;
    this.#options = options;
  }

  /** Which hosts there are is looked up by the first request: a mount makes none. */
  #open(): Promise<RegistryHosts> {
    if (this.#hosts === null) {
      const { registry, repository } = this.reference;
      const { hosts, hostsDirectory = DEFAULT_HOSTS_DIRECTORY } = this.#options;
      this.#hosts = Promise.resolve(hosts ?? hostsFor(registry, hostsDirectory)).then((found) => {
        this.#known = new RegistryHosts(found, registry, repository, this.#options, this.counters);
        return this.#known;
      });
      this.#hosts.catch(() => {
        this.#hosts = null; // the file may be mended
      });
    }
    return this.#hosts;
  }

  async resolve(options: ResolveOptions = {}): Promise<ResolvedImage> {
    const { reference } = this;
    const name = reference.canonical;
    const top = await this.#manifest(reference.digest ?? reference.tag!, null, options.signal).catch((error: unknown) =>
      this.#explainMiss(error, options.signal),
    );
    const reader: ContentReader = {
      name,
      manifest: (descriptor, signal) => this.#manifest(descriptor.digest, descriptor, signal),
      config: (descriptor, limit, signal) => this.#config(descriptor, limit, signal),
    };
    const root = { digest: top.digest, top: parseManifest(top.bytes, top.contentType, `the manifest of ${name}`) };
    const where = { reference: name, registry: reference.registry, repository: reference.repository };
    return resolveImage(reader, root, where, options);
  }

  /** A missing tag is most often misspelt: the error says which there are. */
  async #explainMiss(error: unknown, signal?: AbortSignal): Promise<never> {
    const { repository, tag, digest } = this.reference;
    if (!(error instanceof ClipError) || error.code !== 'NOT_FOUND' || tag === null || digest !== null) throw error;
    let tags: unknown;
    try {
      const path = `${repository}/tags/list?n=${MAX_TAGS_SHOWN + 1}`;
      const hosts = await this.#open();
      const request = { what: 'tags', headers: IDENTITY, accept: [200], signal };
      const { response } = await hosts.attempt('resolve', path, request);
      const bytes = await response.body.collect(MAX_MANIFEST_BYTES);
      tags = bytes === null ? null : parseJsonObject(bytes, 'tags').tags;
    } catch {
      throw error; // the repository is missing, too, or does not list its tags
    }
    const names = Array.isArray(tags)
      ? tags.filter((name) => typeof name === 'string' && /^[\w.-]+$/.test(name)).sort()
      : [];
    if (names.length === 0) throw error;
    const shown = names.slice(0, MAX_TAGS_SHOWN).join(', ');
    const hint = `it has these tags: ${shown}${names.length > MAX_TAGS_SHOWN ? ', …' : ''}`;
    throw new ClipError('NOT_FOUND', error.message, { hint, cause: error });
  }

  async #manifest(
    tagOrDigest: string,
    descriptor: Descriptor | null,
    signal?: AbortSignal,
  ): Promise<{ bytes: Uint8Array; contentType: string; digest: string }> {
    const byDigest = tagOrDigest.includes(':');
    const { repository, canonical } = this.reference;
    const what = byDigest ? `manifest ${tagOrDigest} of ${repository}` : `${repository}:${tagOrDigest}`;
    const { bytes, response } = await this.#small(
      `${repository}/manifests/${tagOrDigest}`,
      byDigest ? 'pull' : 'resolve',
      what,
      MAX_MANIFEST_BYTES,
      ACCEPT_MANIFESTS,
      signal,
    );
    if (descriptor !== null && bytes.length !== descriptor.size) {
      throw new ClipError('DIGEST_MISMATCH', `${what} has ${bytes.length} bytes, its index says ${descriptor.size}`);
    }
    const { url, headers } = response;
    const contentType = headers['content-type'] ?? '';
    if (byDigest) {
      verifyDigest(bytes, tagOrDigest, what);
      return { bytes, contentType, digest: tagOrDigest };
    }
    if (/^text\/html\b/.test(contentType)) {
      throw new ClipError('BAD_FORMAT', `${url.origin} answers ${canonical} with a web page, not a manifest`, {
        hint: 'check the host and port of the registry',
      });
    }
    const digest = digestOf(bytes);
    const claimed = headers['docker-content-digest'];
    if (claimed?.startsWith('sha256:') && claimed !== digest) {
      throw new ClipError(
        'DIGEST_MISMATCH',
        `the manifest of ${what} has digest ${digest}, not ${claimed} as ${url.host} says`,
      );
    }
    return { bytes, contentType, digest };
  }

  async #config(descriptor: Descriptor, limit: number, signal?: AbortSignal): Promise<Uint8Array> {
    const what = `config ${descriptor.digest} of ${this.reference.repository}`;
    if (descriptor.size > limit)
      throw new ClipError('LIMIT', `${what} has ${descriptor.size} bytes; clip takes up to ${limit}`);
    const { bytes } = await this.#small(this.#blobPath(descriptor.digest), 'pull', what, limit, '*/*', signal);
    if (bytes.length !== descriptor.size) {
      throw new ClipError('DIGEST_MISMATCH', `${what} has ${bytes.length} bytes, its manifest says ${descriptor.size}`);
    }
    verifyDigest(bytes, descriptor.digest, what);
    return bytes;
  }

  #blobPath(digest: string): string {
    return `${this.reference.repository}/blobs/${digest}`;
  }

  /** A whole body of at most `limit` bytes; a connection lost on the way is tried again. */
  async #small(
    path: string,
    capability: Capability,
    what: string,
    limit: number,
    accept: string,
    signal?: AbortSignal,
  ): Promise<Small> {
    const hosts = await this.#open();
    const backoff = hosts.backoff();
    for (;;) {
      try {
        const { response, failed } = await hosts.attempt(capability, path, {
          what,
          headers: { ...IDENTITY, accept },
          accept: [200],
          signal,
        });
        refuseEncoding(response, what);
        const bytes = await response.body.collect(limit).catch((error: unknown) => {
          failed();
          throw bodyError(error, response, what, signal);
        });
        if (bytes === null) throw new ClipError('LIMIT', `${what} is longer than ${limit} bytes`);
        this.counters.bytes += bytes.length;
        return { bytes, response };
      } catch (error) {
        await backoff.next(error, what, signal);
      }
    }
  }

  /** One try. */
  async #request(digest: string, range: ByteRange, options: BlobOptions, skip: number): Promise<Opened> {
    const { start, end } = range;
    const what = `blob ${digest} of ${this.reference.repository}`;
    const whole = start === 0 && (end === undefined || end === options.size);
    const headers = whole ? IDENTITY : { ...IDENTITY, range: `bytes=${start}-${end === undefined ? '' : end - 1}` };
    const spooled = this.#spooled(digest, range, options.size);
    if (spooled !== null) return spooled;
    const hosts = await this.#open();
    const request = { what, headers, accept: [200, 206], signal: options.signal, rememberRedirect: true };
    const { response, origin, failed } = await hosts.attempt('pull', this.#blobPath(digest), request, skip);
    options.onOrigin?.(origin);
    try {
      refuseEncoding(response, what);
      if (response.status === 200 && !whole) countWrongAnswer(response.url.host, 'ignoredRange');
      if (response.status === 200 && start > MAX_SKIP_BYTES && options.size !== undefined) {
        response.body.cancel();
        await this.#spool(digest, options.size, what, skip);
        return this.#spooled(digest, range, options.size)!;
      }
      const layout =
        response.status === 206
          ? checkContentRange(response, range, options.size, what)
          : checkWhole(response, range, options.size, what);
      return { response, failed, ...layout };
    } catch (error) {
      response.body.cancel();
      failed();
      throw error;
    }
  }

  /** From a blob that was fetched as a whole, because the server has no ranges. */
  #spooled(digest: string, { start, end }: ByteRange, size: number | undefined): Opened | null {
    const spool = this.#spools.get(digest);
    if (spool === undefined || size === undefined) return null;
    this.#spools.delete(digest);
    if (spool.failed) {
      void spool.close();
      return null;
    }
    this.#spools.set(digest, spool);
    const last = end ?? size;
    return { response: spool.read(start, last), failed: () => {}, skip: 0, length: last - start };
  }

  /** Not tied to the signal of the reader who found out: others will read the same blob. */
  async #spool(digest: string, size: number, what: string, skip: number): Promise<void> {
    const hosts = await this.#open();
    const request = { what, headers: IDENTITY, accept: [200], rememberRedirect: true };
    const { response } = await hosts.attempt('pull', this.#blobPath(digest), request, skip);
    refuseEncoding(response, what);
    checkWhole(response, { start: 0 }, size, what);
    if (this.#spools.has(digest)) {
      response.body.cancel(); // another reader was quicker
      return;
    }
    this.#spools.set(digest, new BlobSpool(response, digest, size));
    for (const [oldest, spool] of this.#spools) {
      if (this.#spools.size <= MAX_SPOOLS) break;
      this.#spools.delete(oldest);
      void spool.close();
    }
  }

  fetchBlob(digest: string, range: ByteRange, options: BlobOptions = {}): Promise<AsyncIterable<Uint8Array>> {
    return this.#stream(digest, range, options, 0);
  }

  async #stream(
    digest: string,
    range: ByteRange,
    options: BlobOptions & Pick<FillOptions, 'onHost'>,
    skip: number,
  ): Promise<AsyncIterable<Uint8Array>> {
    checkRange(range, options.size);
    const { end } = range;
    if (end === range.start) return (async function* () {})();
    const what = `blob ${digest} of ${this.reference.repository}`;
    const backoff = (await this.#open()).backoff();
    const { counters } = this;
    const open = (start: number): Promise<Opened> =>
      this.#requestRetrying(digest, { start, ...(end !== undefined && { end }) }, options, backoff, skip);
    const first = await open(range.start);

    return (async function* () {
      let at = range.start;
      let opened = first;
      const ends = new EmptyAnswers();
      for (;;) {
        const before = at;
        const { response } = opened;
        let { skip } = opened;
        let left = opened.length ?? Number.POSITIVE_INFINITY;
        const { body } = response;
        options.onHost?.(response.url.host);
        try {
          // Not a for-await: a promise less for every chunk.
          while (left > 0 && !body.ended) {
            const chunk = shift(response, what, options.signal);
            if (chunk === undefined) {
              await body.wait();
              continue;
            }
            counters.bytes += chunk.length;
            if (skip >= chunk.length) {
              skip -= chunk.length;
              continue;
            }
            const piece =
              skip === 0 && chunk.length <= left ? chunk : chunk.subarray(skip, Math.min(chunk.length, skip + left));
            skip = 0;
            left -= piece.length;
            at += piece.length;
            backoff.reset();
            yield piece;
          }
          const missing = end ?? options.size;
          if (missing === undefined || at >= missing) return;
          throw shortBody(response, what, at, missing);
        } catch (error) {
          opened.failed();
          ends.check(at > before, error);
          await backoff.next(error, what, options.signal);
        } finally {
          body.cancel();
        }
        opened = await open(at);
      }
    })();
  }

  async fetchInto(digest: string, start: number, target: Uint8Array, options: FillOptions): Promise<void> {
    const { size, signal, onBytes, mismatches = 0 } = options;
    const end = start + target.length;
    checkRange({ start, end }, size);
    if (target.length === 0) return;
    const hosts = await this.#open();
    const piece = new MemoryTarget(target, onBytes);
    const { onHost, onOrigin, onSent } = options;
    const range = { start, length: target.length };
    const request = { ranges: [range], size, target: piece, signal, onHost, onOrigin, onSent };
    if (!this.#spools.has(digest)) await hosts.getDirect(this.#blobPath(digest), request, mismatches);
    if (piece.received < target.length) await this.#fill(digest, start + piece.received, end, piece, options);
  }

  /** The part of a range that did not come at the first try, with logins, redirects and patience. */
  async #fill(
    digest: string,
    start: number,
    end: number,
    target: MemoryTarget,
    { size, signal, onHost, onOrigin, mismatches = 0 }: FillOptions,
  ): Promise<void> {
    const rest = await this.#stream(digest, { start, end }, { size, signal, onHost, onOrigin }, mismatches);
    for await (const chunk of rest) {
      target.room().set(chunk);
      await target.filled(chunk.length);
    }
  }

  takesParts(digest: string): boolean {
    // Hosts that are not known yet are asked by the first request.
    return !this.#spools.has(digest) && this.#known?.takesParts(this.#blobPath(digest)) !== false;
  }

  async fetchParts(
    digest: string,
    ranges: readonly BlobRange[],
    target: Uint8Array,
    options: FillOptions,
  ): Promise<number> {
    const { size, signal, onBytes, onHost, onOrigin, onSent } = options;
    for (const { start, length } of ranges) checkRange({ start, end: start + length }, size);
    const hosts = await this.#open();
    const path = this.#blobPath(digest);
    const piece = new MemoryTarget(target, onBytes);
    for (let fruitless = false; piece.received < target.length && this.takesParts(digest); ) {
      const before = piece.received;
      const rest = rangesAfter(ranges, before);
      await hosts.getDirect(path, { ranges: rest, size, target: piece, signal, onHost, onOrigin, onSent });
      const [next] = rangesAfter(ranges, piece.received);
      if (next === undefined || !this.takesParts(digest)) break;
      if (piece.received > before) fruitless = false;
      else if (fruitless) {
        hosts.noteFruitless(path);
        break;
      } else fruitless = true;
      // A login, a redirect or a broken connection is the other client's work for one range; then the others are asked for again.
      await this.#fill(digest, next.start, next.start + next.length, piece, options);
    }
    return piece.received;
  }

  async connect(count: number): Promise<void> {
    await (await this.#open()).connect(count);
  }

  async scanBlob(
    digest: string,
    size: number,
    target: BlobTarget,
    { start = 0, signal }: ScanOptions = {},
  ): Promise<void> {
    const request = { ranges: [{ start, length: size - start }], size, target, signal };
    const done = start + (await (await this.#open()).getDirect(this.#blobPath(digest), request));
    if (done === size) return;
    for await (const chunk of await this.fetchBlob(digest, { start: done, end: size }, { signal, size })) {
      for (let at = 0; at < chunk.length; ) {
        const room = target.room();
        const piece = chunk.subarray(at, at + room.length);
        room.set(piece);
        at += piece.length;
        await target.filled(piece.length);
      }
    }
  }

  async #requestRetrying(
    digest: string,
    range: ByteRange,
    options: BlobOptions,
    backoff: Backoff,
    skip: number,
  ): Promise<Opened> {
    for (;;) {
      try {
        return await this.#request(digest, range, options, skip);
      } catch (error) {
        await backoff.next(error, `blob ${digest} of ${this.reference.repository}`, options.signal);
      }
    }
  }

  artifacts(): Promise<ArtifactRepository> {
    this.#artifacts ??= this.#open().then((hosts) => new ArtifactRepository(hosts, this.reference.repository));
    return this.#artifacts;
  }

  async close(): Promise<void> {
    await Promise.all([...this.#spools.values()].map((spool) => spool.close()));
    this.#spools.clear();
    await (await this.#hosts?.catch(() => null))?.close();
  }
}

/**
 * A server in trouble refuses, resets or says 503, and is waited for. One that answers a range with success and then gives not
 * a byte of it, time and again, does not have it: a blob that was cut, a cache that holds half of it. Its readers need
 * another source, or the error.
 */
const MAX_EMPTY_ANSWERS = 3;

class EmptyAnswers {
  #count = 0;

  /** @throws `error`, when it is not worth another try */
  check(progress: boolean, error: unknown): void {
    this.#count = progress ? 0 : this.#count + 1;
    if (this.#count >= MAX_EMPTY_ANSWERS) throw error;
  }
}

function bodyError(error: unknown, response: Response, what: string, signal: AbortSignal | undefined): ClipError {
  return signal?.aborted ? aborted(what, signal.reason) : networkError(response.url, error);
}

function shift(response: Response, what: string, signal: AbortSignal | undefined): Uint8Array | undefined {
  try {
    return response.body.shift();
  } catch (error) {
    throw bodyError(error, response, what, signal);
  }
}
