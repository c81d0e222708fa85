import { isDeepStrictEqual } from 'node:util';
import { ClipError } from '../bytes/index.js';
import type { OpenedSource, StorageAccess } from '../check/index.js';
import type { BlobSource } from '../lazy/index.js';
import { rangesAfter } from '../oci/index.js';
import type { ClientContext } from '../wire/index.js';

/** At most this many ways to one registry are kept: each place of an image may bring its own. */
const MAX_WAYS = 4;

interface Way {
  readonly access: StorageAccess;
  source: Promise<OpenedSource> | null;
  /** `source`, once it is open. */
  opened: OpenedSource | null;
}

/**
 * An archive's way to its layers, opened by the first fetch: mounting needs no network (a node may boot without its
 * registry), and a server that takes over answers from its cache before it loads a registry client.
 *
 * Places of one image share it, and with it the credentials, proxies and certificates that each of them brought: those of
 * the place mounted last are used, and if the registry refuses them, those of earlier places.
 */
export class RegistrySource implements BlobSource {
  readonly #openWay: (access: StorageAccess) => Promise<OpenedSource>;
  #ways: Way[];
  readonly #retired: Way[] = [];

  constructor(open: (access: StorageAccess) => Promise<OpenedSource>, context: ClientContext) {
    this.#openWay = open;
    const { ways } = context as { ways?: readonly StorageAccess[] };
    // No client's: after a crash of everything this process looks up those of its own user.
    this.#ways = (ways === undefined || ways.length === 0 ? [{}] : ways).map((access) => ({
      access,
      source: null,
      opened: null,
    }));
  }

  /** The context that the keeper keeps for the next server. */
  get context(): ClientContext {
    return { ways: this.#ways.map((way) => way.access) };
  }

  /** The context of a mount that its first place brings. */
  static contextOf(access: StorageAccess): ClientContext {
    return { ways: [access] };
  }

  /** Another place was mounted, with this access. */
  prefer(access: StorageAccess): void {
    const known = this.#ways.find((way) => isDeepStrictEqual(way.access, access));
    const others = this.#ways.filter((way) => way !== known && Object.keys(way.access).length > 0);
    const ways = [known ?? { access, source: null, opened: null }, ...others];
    this.#ways = ways.slice(0, MAX_WAYS);
    // Fetches may be under way on those that are not used again.
    this.#retired.push(...ways.slice(MAX_WAYS).filter((way) => way.source !== null));
  }

  #open(way: Way): Promise<OpenedSource> {
    way.source ??= this.#openWay(way.access).then(
      (source) => {
        way.opened = source;
        return source;
      },
      (error: unknown) => {
        way.source = null; // the next read tries again
        throw error;
      },
    );
    return way.source;
  }

  /** Loads what fetching takes. Nothing is fetched. What fails here fails again in a read. */
  async prepare(): Promise<void> {
    await (await this.#open(this.#ways[0]!)).load?.();
  }

  /** Opens connections for fetches that are to come. Nothing is asked for. What fails here fails again in a read. */
  async connect(count: number): Promise<void> {
    await (await this.#open(this.#ways[0]!)).connect?.(count);
  }

  /** Bytes that came from the registry, for all places of this image together. */
  get fetchedBytes(): number {
    return [...this.#ways, ...this.#retired].reduce((sum, { opened }) => sum + (opened?.counters.bytes ?? 0), 0);
  }

  /** Retries, redirects and tokens so far. */
  get counters(): { retries: number; redirects: number; tokens: number } {
    const sum = { retries: 0, redirects: 0, tokens: 0 };
    for (const { opened } of [...this.#ways, ...this.#retired]) {
      const counters = opened?.counters;
      sum.retries += counters?.retries ?? 0;
      sum.redirects += counters?.redirects ?? 0;
      sum.tokens += counters?.tokens ?? 0;
    }
    return sum;
  }

  /** The profile that is attached to the image in its registry; null: there is none, or the image is in no registry. */
  profile(manifestDigest: string, command: string, limit: number, signal: AbortSignal): Promise<Uint8Array | null> {
    return this.#tryAll(async (source) => {
      const artifacts = (await source.artifacts?.()) ?? null;
      return artifacts === null ? null : await artifacts.fetchProfile(manifestDigest, command, limit, signal);
    });
  }

  fetchBlob(...args: Parameters<BlobSource['fetchBlob']>): ReturnType<BlobSource['fetchBlob']> {
    return this.#tryAll((source) => source.fetchBlob(...args));
  }

  fetchInto(...args: Parameters<BlobSource['fetchInto']>): ReturnType<BlobSource['fetchInto']> {
    const [digest, start, target, options] = args;
    // Received bytes may be in use already, so another way goes on behind them.
    let done = 0;
    return this.#tryAll((source) => {
      const before = done;
      const onBytes = (received: number): Promise<void> | null => {
        done = before + received;
        return options.onBytes?.(done) ?? null;
      };
      return source.fetchInto(digest, start + before, target.subarray(before), { ...options, onBytes });
    });
  }

  /** Of a source that is not open yet it is not known. */
  takesParts(digest: string): boolean {
    const { opened } = this.#ways[0]!;
    return opened === null || opened.takesParts?.(digest) === true;
  }

  fetchParts(...args: Parameters<NonNullable<BlobSource['fetchParts']>>): Promise<number> {
    const [digest, ranges, target, options] = args;
    let done = 0;
    return this.#tryAll(async (source) => {
      const before = done;
      if (source.fetchParts === undefined) return before;
      const onBytes = (received: number): Promise<void> | null => {
        done = before + received;
        return options.onBytes?.(done) ?? null;
      };
      const rest = { ...options, onBytes };
      return before + (await source.fetchParts(digest, rangesAfter(ranges, before), target.subarray(before), rest));
    });
  }

  async #tryAll<T>(fetch: (source: OpenedSource) => Promise<T>): Promise<T> {
    let refused: unknown;
    for (const way of [...this.#ways]) {
      try {
        const got = await fetch(await this.#open(way));
        // A refused way is not asked first again.
        if (refused !== undefined && this.#ways.includes(way)) {
          this.#ways = [way, ...this.#ways.filter((other) => other !== way)];
        }
        return got;
      } catch (error) {
        if (!(error instanceof ClipError) || error.code !== 'UNAUTHORIZED') throw error;
        refused ??= error;
      }
    }
    throw refused;
  }

  async close(): Promise<void> {
    await Promise.all([...this.#ways, ...this.#retired].map(async (way) => (await way.source)?.close()));
  }
}
