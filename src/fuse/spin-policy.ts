/** Polls, half a microsecond each, before the leader sleeps: about the time until a reader's next request. */
const MAX_SPIN = 120;
/** Requests after which the two ways of waiting are compared anew. */
const EPOCH = 64;
/** The way that looked worse is tried again after this number of epochs. */
const EXPLORE = 10;
/** Weight of the newest epoch. */
const NEWEST = 0.3;
/** Two requests with more milliseconds between them do not follow from each other. */
const CONVERSATION = 0.5;
/** A sleep that ended within this many milliseconds would have been caught by polling. */
const SHORT_SLEEP = 0.12;

/**
 * Decides whether to poll for a moment before sleeping. On an idle virtual machine waking a sleeping thread takes long, and polling
 * wins. On a busy one polling keeps the core from the reader that is about to ask, and sleeping wins (docs/benchmarks.md, "Why these
 * constants"). No clock or counter tells the two cases apart beforehand. So both are tried, and the time from request to request
 * decides.
 */
export class SpinPolicy {
  /** How often to poll before the next sleep. */
  spins: number;
  /** Mean time from request to request, in ms, while sleeping at once and while polling first; 0: not known. */
  readonly #cost = [0, 0];
  #polling: 0 | 1 = 1;
  #epochs = 0;
  #last = 0;
  #sum = 0;
  #count = 0;

  /** @param enabled false on a single core, where polling can only harm */
  constructor(private readonly enabled: boolean) {
    this.spins = enabled ? MAX_SPIN : 0;
  }

  /** A request has come at `now`, after `slept` ms of sleep; 0: polling caught it. */
  arrived(now: number, slept: number): void {
    if (!this.enabled) return;
    const cycle = now - this.#last;
    this.#last = now;
    // Requests that are far apart: the polls before each sleep are for nothing, so they become fewer.
    if (this.#polling === 1 && slept > 0) this.spins = slept < SHORT_SLEEP ? MAX_SPIN : this.spins >>> 1;
    if (cycle > CONVERSATION) return;
    this.#sum += cycle;
    if (++this.#count === EPOCH) this.#compare();
  }

  #compare(): void {
    const mean = this.#sum / this.#count;
    const before = this.#cost[this.#polling]!;
    this.#cost[this.#polling] = before === 0 ? mean : before + (mean - before) * NEWEST;
    this.#sum = 0;
    this.#count = 0;
    this.#epochs++;
    const [sleeping, polling] = this.#cost;
    const better = polling! <= sleeping! ? 1 : 0;
    if (sleeping === 0) this.#polling = 0;
    else this.#polling = this.#epochs % EXPLORE === 0 ? (better === 1 ? 0 : 1) : better;
    this.spins = this.#polling === 1 ? MAX_SPIN : 0;
  }
}
