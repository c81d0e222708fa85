import type { ImageMeta } from '../archive/index.js';
import type { BlobSource } from '../lazy/index.js';
import type { ImageSource, SourceOptions } from '../oci/index.js';

/**
 * An archive's way to its layers, opened by the first fetch: mounting needs no network (a node may boot without its
 * registry), and a server that takes over answers from its cache before it loads a registry client.
 */
export class LazySource implements BlobSource {
  readonly #image: ImageMeta;
  readonly #options: SourceOptions;
  #source: Promise<ImageSource> | null = null;

  constructor(image: ImageMeta, options: SourceOptions) {
    this.#image = image;
    this.#options = options;
  }

  #open(): Promise<ImageSource> {
    this.#source ??= import('../oci/index.js').then((oci) => oci.sourceForArchive(this.#image, this.#options));
    return this.#source;
  }

  async fetchBlob(...args: Parameters<ImageSource['fetchBlob']>): ReturnType<ImageSource['fetchBlob']> {
    return (await this.#open()).fetchBlob(...args);
  }

  async fetchRange(...args: Parameters<ImageSource['fetchRange']>): ReturnType<ImageSource['fetchRange']> {
    return (await this.#open()).fetchRange(...args);
  }

  async close(): Promise<void> {
    await (await this.#source)?.close();
  }
}
