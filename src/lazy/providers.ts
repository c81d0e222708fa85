import { ClipError } from '../bytes/index.js';
import type { LayerProvider } from './types.js';

/** The archives that a layer is open for, each with a way to its bytes. Not empty while the layer is open. */
export class Providers {
  readonly #list: LayerProvider[] = [];

  get count(): number {
    return this.#list.length;
  }

  add(provider: LayerProvider): void {
    this.#list.push(provider);
  }

  has(provider: LayerProvider): boolean {
    return this.#list.includes(provider);
  }

  remove(provider: LayerProvider): void {
    const at = this.#list.indexOf(provider);
    if (at >= 0) this.#list.splice(at, 1);
  }

  /** The provider if the layer is still open for it, otherwise another. @throws ClipError ABORTED when there is none */
  current(provider: LayerProvider): LayerProvider {
    if (this.has(provider)) return provider;
    const first = this.#list[0];
    if (first === undefined) throw new ClipError('ABORTED', 'the layer was closed');
    return first;
  }

  /** The one to be asked after `provider` has failed: itself when it is alone. */
  next(provider: LayerProvider): LayerProvider {
    return this.#list[(this.#list.indexOf(provider) + 1) % this.#list.length] ?? provider;
  }
}
