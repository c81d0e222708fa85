/** An answer of which nothing has come for this long has stalled, and holds no others. */
const MAX_SILENCE_MS = 50;

interface Place {
  readonly total: number;
  /** Bytes to come; 0 before the answer begins, for a registry that is slow to answer holds no others. */
  left: number;
  begun: boolean;
  lastBytes: number;
  /** Bytes before it beyond which it is held. */
  most: number;
  /** Ends the holding; null: it is not held. */
  resume: (() => void) | null;
  /** A reader waits for it. */
  urgent: boolean;
}

/**
 * The requests of one image that no reader waits for, in the order in which they left. Several are on their way at once, so that the link never
 * idles. What was asked for first comes first all the same, because later answers are left in their sockets meanwhile
 * (docs/internals/fetching-ahead.md, "Several ranges in one request").
 */
export class ReceiveOrder {
  readonly #places: Place[] = [];
  #timer: NodeJS.Timeout | null = null;

  join(total: number): Turn {
    const place: Place = { total, left: 0, begun: false, lastBytes: 0, most: 0, resume: null, urgent: false };
    this.#places.push(place);
    return new Turn(this, place);
  }

  /** @internal Bytes of a place have come, or it has gone. */
  release(): void {
    const now = performance.now();
    let before = 0;
    for (const place of this.#places) {
      if (before <= place.most || place.urgent) go(place, now);
      if (place.resume !== null || now - place.lastBytes < MAX_SILENCE_MS) before += place.left;
    }
  }

  /** @internal Resolves when few bytes are to come before the place. */
  hold(place: Place): Promise<void> | null {
    const held = new Promise<void>((resolve) => {
      place.resume = resolve;
    });
    this.release();
    if (place.resume === null) return null;
    this.#watch();
    return held;
  }

  /** @internal */
  leave(place: Place): void {
    this.#places.splice(this.#places.indexOf(place), 1);
    go(place, 0);
    this.release();
  }

  #watch(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      this.release();
      if (this.#places.some(({ resume }) => resume !== null)) this.#watch();
    }, MAX_SILENCE_MS).unref();
  }
}

/** One request's place in the order. */
export class Turn {
  readonly #order: ReceiveOrder;
  readonly #place: Place;

  constructor(order: ReceiveOrder, place: Place) {
    this.#order = order;
    this.#place = place;
  }

  /** Bytes have come, of the answer's beginning or more. */
  received(bytes: number): void {
    const place = this.#place;
    place.left = (place.begun ? place.left : place.total) - bytes;
    place.begun = true;
    place.lastBytes = performance.now();
    this.#order.release();
  }

  /**
   * Null, or a promise to wait for before more of the answer is taken.
   * @param most bytes that may still be to come of earlier answers
   */
  wait(most: number): Promise<void> | null {
    this.#place.most = most;
    return this.#order.hold(this.#place);
  }

  /** A reader waits for it. */
  hurry(): void {
    this.#place.urgent = true;
    this.#order.release();
  }

  /** The request is over. */
  end(): void {
    this.#order.leave(this.#place);
  }
}

function go(place: Place, now: number): void {
  if (place.resume === null) return;
  place.lastBytes = now;
  place.resume();
  place.resume = null;
}

/** The orders of all images, by their source. */
export class ReceiveOrders {
  readonly #bySource = new WeakMap<object, ReceiveOrder>();

  of(source: object): ReceiveOrder {
    let order = this.#bySource.get(source);
    if (order === undefined) {
      order = new ReceiveOrder();
      this.#bySource.set(source, order);
    }
    return order;
  }
}
