import type { LayerDescriptor } from '../oci/index.js';

/** What an index build is doing: reading layers, putting their entries together to one tree, writing the archive. */
export type IndexStage = 'layers' | 'tree' | 'archive';

export interface LayerProgress {
  /** In the stages after `layers` the other fields are those of the last layer. */
  readonly stage: IndexStage;
  readonly digest: string;
  /** This is the n-th of the image's layers, from the base, 1 the first. */
  readonly layer: number;
  readonly layers: number;
  /** Compressed bytes that are decoded and hashed, and all of the layer. */
  readonly done: number;
  readonly total: number;
  /** Bytes of the layer's tar so far. */
  readonly uncompressed: number;
  /** Bytes per second since the layer's first byte. */
  readonly rate: number;
  /** The layer's index was there before: none of its bytes are read. */
  readonly known: boolean;
}

/** Tells the caller of an index build how far it is. */
export class IndexProgress {
  readonly #tell: ((progress: LayerProgress) => void) | undefined;
  readonly #layers: readonly LayerDescriptor[];
  #last: LayerProgress | null = null;

  constructor(layers: readonly LayerDescriptor[], tell: ((progress: LayerProgress) => void) | undefined) {
    this.#layers = layers;
    this.#tell = tell;
  }

  #say(progress: LayerProgress): void {
    this.#last = progress;
    this.#tell?.(progress);
  }

  /** A layer is begun. @returns what takes the compressed bytes since the last call and the bytes of the tar so far */
  layer({ digest, size }: LayerDescriptor): (bytes: number, uncompressed: number) => void {
    const started = performance.now();
    const which = this.#which(digest);
    let done = 0;
    const report = (bytes: number, uncompressed: number): void => {
      done += bytes;
      const seconds = (performance.now() - started) / 1000;
      const rate = seconds > 0 ? done / seconds : 0;
      this.#say({ stage: 'layers', ...which, digest, done, total: size, uncompressed, rate, known: false });
    };
    report(0, 0);
    return report;
  }

  known({ digest, size }: LayerDescriptor, uncompressed: number): void {
    const which = this.#which(digest);
    this.#say({ stage: 'layers', ...which, digest, done: size, total: size, uncompressed, rate: 0, known: true });
  }

  stage(stage: IndexStage): void {
    if (this.#last !== null) this.#say({ ...this.#last, stage });
  }

  #which(digest: string): { layer: number; layers: number } {
    const layer = 1 + this.#layers.findIndex((layer) => layer.digest === digest);
    return { layer, layers: this.#layers.length };
  }
}
