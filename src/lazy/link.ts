/** Assumed of a link that nothing was fetched over yet: little is then fetched ahead until the first answer tells. */
const UNKNOWN_ROUND_TRIP_MS = 20;
const UNKNOWN_BYTES_PER_MS = 12_500;
/** A longer wait for the first byte moves the round trip by this share: most longer waits are the registry's, or those of a busy link. */
const RISE = 0.02;
/** A rate is taken over at least this time, because bytes come in bursts, … */
const MIN_SAMPLE_MS = 5;
const MIN_SAMPLE_BYTES = 256 * 1024;
/** … and this many bytes replace what was measured before. */
const MEMORY_BYTES = 4_000_000;
/** A sample is taken in the middle of a transfer that goes on; … */
const LONG_SAMPLE_MS = 50;
/** … the first one early, for what is asked for next goes by it. A busy thread takes at once what came in 10 ms. */
const FIRST_SAMPLE_MS = 20;
const FIRST_SAMPLE_BYTES = 512 * 1024;

/** What a link costs, for the policy of fetching ahead. */
export interface LinkCost {
  /** False: the rate is an assumption. */
  readonly known: boolean;
  /** Until the first byte of an answer. */
  readonly roundTripMs: number;
  readonly bytesPerMs: number;
}

/**
 * Round trip and rate of the way to one host, estimated from the requests that are made anyway: the round trip as nearly the shortest
 * wait for a first byte, the rate as all bytes of the host over the time in which any arrived. Times are performance.now().
 */
export class Link implements LinkCost {
  #roundTripMs = Number.NaN;
  #bytesPerMs = Number.NaN;
  #receiving = 0;
  #since = 0;
  #ms = 0;
  #bytes = 0;

  get known(): boolean {
    return !Number.isNaN(this.#bytesPerMs);
  }

  get roundTripMs(): number {
    return Number.isNaN(this.#roundTripMs) ? UNKNOWN_ROUND_TRIP_MS : this.#roundTripMs;
  }

  get bytesPerMs(): number {
    return Number.isNaN(this.#bytesPerMs) ? UNKNOWN_BYTES_PER_MS : this.#bytesPerMs;
  }

  /** The first bytes of an answer have come. `ended` follows. */
  began(waitedMs: number, bytes: number, now: number): void {
    if (!(waitedMs >= this.#roundTripMs)) this.#roundTripMs = waitedMs;
    else this.#roundTripMs += (waitedMs - this.#roundTripMs) * RISE;
    // The time in which they came is known only beside another answer.
    if (this.#receiving++ === 0) this.#since = now;
    else this.#bytes += bytes;
  }

  /** More bytes of an answer. */
  received(bytes: number, now: number): void {
    this.#bytes += bytes;
    const first = !this.known && this.#bytes >= FIRST_SAMPLE_BYTES;
    if (now - this.#since >= (first ? FIRST_SAMPLE_MS : LONG_SAMPLE_MS)) this.#take(now);
  }

  ended(now: number): void {
    if (--this.#receiving === 0) this.#take(now);
  }

  #take(now: number): void {
    this.#ms += now - this.#since;
    this.#since = now;
    if (this.#ms < MIN_SAMPLE_MS || this.#bytes < MIN_SAMPLE_BYTES) return;
    const rate = this.#bytes / this.#ms;
    const weight = Number.isNaN(this.#bytesPerMs) ? 1 : Math.min(1, this.#bytes / MEMORY_BYTES);
    this.#bytesPerMs = weight === 1 ? rate : this.#bytesPerMs + (rate - this.#bytesPerMs) * weight;
    this.#ms = 0;
    this.#bytes = 0;
  }
}

/** Hosts that are remembered. */
const MAX_HOSTS = 256;

/** The links of a process, by host. They outlive the mounts that use them. */
export class Links {
  readonly #hosts = new Map<string, Link>();
  /** By the source of an image: the host that answered it last. */
  readonly #bySource = new WeakMap<object, Link>();
  #last: Link | null = null;

  /** A source without a host (a layout on a disk) has a link of its own. */
  answered(source: object, host: string | null): Link {
    let link = host === null ? this.#bySource.get(source) : this.#hosts.get(host);
    if (link === undefined) {
      link = new Link();
      if (host !== null) {
        if (this.#hosts.size >= MAX_HOSTS) this.#hosts.delete(this.#hosts.keys().next().value!);
        this.#hosts.set(host, link);
      }
    }
    this.#bySource.set(source, link);
    this.#last = link;
    return link;
  }

  /** Of a source that was not asked yet: the link used last, for most images of a node come from one registry. */
  of(source: object): LinkCost {
    return this.#bySource.get(source) ?? this.#last ?? UNKNOWN;
  }
}

const UNKNOWN: LinkCost = new Link();
