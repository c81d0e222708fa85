/** Lets a number of callers go ahead at once, and the others when those are done, in order. */
export class Turns {
  readonly #max: number;
  readonly #waiting: (() => void)[] = [];
  #busy = 0;

  constructor(max: number) {
    this.#max = max;
  }

  /** Resolves with the function that ends this turn; further calls of it do nothing. */
  async take(): Promise<() => void> {
    if (this.#busy < this.#max) this.#busy++;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    let mine = true;
    return () => {
      if (!mine) return;
      mine = false;
      const next = this.#waiting.shift();
      if (next === undefined) this.#busy--;
      else next(); // it takes over this place
    };
  }

  /** Lets all waiting callers go ahead: each finds out that its connection is closed. */
  close(): void {
    for (const go of this.#waiting.splice(0)) go();
  }
}
