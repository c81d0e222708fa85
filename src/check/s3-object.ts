import type { SpanColumns } from '../archive/index.js';
import { ClipError, FormatError } from '../bytes/index.js';
import { decodeHeader, HEADER_SIZE, type LegacyHeader, MAX_WHOLE_BLOCK, sameData } from '../legacy/index.js';

/** An index that the Go program wrote anew may describe its types otherwise: so much longer than ours it may be. */
const MAX_LONGER = 4;
const FREE_INDEX_BYTES = 64 * 1024;

interface Range {
  readonly start: number;
  readonly end?: number;
}

interface FetchOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onBytes?: ((received: number) => Promise<void> | null) | undefined;
}

/** A source of one object. */
interface ObjectSource {
  readonly name: string;
  readonly counters: Readonly<{ bytes: number }>;
  fetchInto(digest: string, start: number, target: Uint8Array, options?: FetchOptions): Promise<void>;
  fetchBlob(digest: string, range: Range, options?: FetchOptions): Promise<AsyncIterable<Uint8Array>>;
  load(): Promise<void>;
  close(): Promise<void>;
}

/**
 * The data of an S3 archive, from an object that was compared with the archive. The author of an archive names the object, and the keys
 * are those of the user who mounts it: without the comparison, an archive could show the bytes of any object that this user may read.
 * The object is a local archive (docs/legacy.md, "The format"): its header is read before anything of it is used. Of blocks that are
 * served before they are wholly checked, its index must name the same: nobody can write that who has not read the object.
 */
export class CheckedObject {
  readonly counters: Readonly<{ bytes: number }>;
  readonly #source: ObjectSource;
  readonly #archive: string;
  readonly #ownIndex: () => Uint8Array;
  /** Start and end of each block that is served in pieces, in order. */
  readonly #long: readonly (readonly [start: number, end: number])[];
  #header: Promise<LegacyHeader> | null = null;
  #index: Promise<void> | null = null;

  /**
   * @param archive for errors
   * @param ownIndex reads the archive's own index
   */
  constructor(source: ObjectSource, table: SpanColumns | undefined, archive: string, ownIndex: () => Uint8Array) {
    this.#source = source;
    this.#archive = archive;
    this.#ownIndex = ownIndex;
    this.counters = source.counters;
    const { start, length } = table?.blocks ?? { start: new Float64Array(0), length: new Float64Array(0) };
    const long: [number, number][] = [];
    for (let i = 0; i < start.length; i++) {
      if (length[i]! > MAX_WHOLE_BLOCK) long.push([start[i]!, start[i]! + length[i]!]);
    }
    this.#long = long;
  }

  async fetchInto(digest: string, start: number, target: Uint8Array, options: FetchOptions = {}): Promise<void> {
    await this.#check(start, start + target.length, options.signal);
    await this.#source.fetchInto(digest, start, target, options);
  }

  async fetchBlob(digest: string, range: Range, options: FetchOptions = {}): Promise<AsyncIterable<Uint8Array>> {
    await this.#check(range.start, range.end ?? Number.POSITIVE_INFINITY, options.signal);
    return this.#source.fetchBlob(digest, range, options);
  }

  async #check(start: number, end: number, signal: AbortSignal | undefined): Promise<void> {
    this.#header ??= this.#once(this.#readHeader(), () => {
      this.#header = null;
    });
    await unlessAborted(this.#header, signal);
    if (!this.#long.some(([from, to]) => from < end && start < to)) return;
    this.#index ??= this.#once(this.#compareIndex(await this.#header), () => {
      this.#index = null;
    });
    await unlessAborted(this.#index, signal);
  }

  /** A failure of the network is not for ever. Nobody may be waiting for it any more. */
  #once<T>(promise: Promise<T>, forget: () => void): Promise<T> {
    promise.catch((error: unknown) => {
      if (!(error instanceof ClipError) || error.code !== 'CONFLICT') forget();
    });
    return promise;
  }

  async #readHeader(): Promise<LegacyHeader> {
    const bytes = new Uint8Array(HEADER_SIZE);
    await this.#source.fetchInto('', 0, bytes);
    try {
      const header = decodeHeader(bytes, this.#source.name, Number.MAX_SAFE_INTEGER);
      if (header.storage === 'local') return header;
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
    }
    throw this.#another('it is no archive');
  }

  async #compareIndex({ index }: LegacyHeader): Promise<void> {
    const own = this.#ownIndex();
    if (index.length > FREE_INDEX_BYTES + own.length * MAX_LONGER) throw this.#another('its index is another one');
    const bytes = new Uint8Array(index.length);
    await this.#source.fetchInto('', index.position, bytes);
    if (!sameData(own, bytes)) throw this.#another('its index is another one');
  }

  #another(why: string): ClipError {
    return new ClipError('CONFLICT', `${this.#source.name} is not the data of ${this.#archive}: ${why}`, {
      hint: 'look at the bucket and the key: the object is the local archive that this one was made from',
    });
  }

  load(): Promise<void> {
    return this.#source.load();
  }

  close(): Promise<void> {
    return this.#source.close();
  }
}

function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(signal.reason as Error);
    if (signal.aborted) return abort();
    signal.addEventListener('abort', abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
