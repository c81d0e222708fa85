import type { Archive } from '../archive/index.js';
import { ClipError, FormatError } from '../bytes/index.js';
import { BLOCK } from '../erofs/index.js';
import { type KernelSupport, type KernelTree, KernelTrees, probeKernelPlane } from '../plane/index.js';
import { kernelSourceFits, type PlaneState, type PlaneWish } from '../wire/index.js';

/** The plane of a mount that is about to be made, and what the kernel is to mount. */
export type ChosenPlane =
  | { readonly state: PlaneState & { readonly kind: 'fuse' } }
  | { readonly state: PlaneState & { readonly kind: 'kernel' }; readonly tree: KernelTree };

export function fusePlane(reason: string): ChosenPlane {
  return { state: { kind: 'fuse', reason, files: [] } };
}

/** Decides which plane serves an image. */
export class PlaneChoice {
  readonly #cacheDir: string;
  readonly #root: string;
  readonly #trees: KernelTrees;
  #support: KernelSupport | null = null;

  constructor(cacheDir: string, root: string) {
    this.#cacheDir = cacheDir;
    this.#root = root;
    this.#trees = new KernelTrees(cacheDir);
  }

  /** @throws ClipError UNSUPPORTED when the kernel is asked for and cannot serve the image */
  async choose(wish: PlaneWish, archive: Archive): Promise<ChosenPlane> {
    if (wish === 'fuse') return fusePlane('as set');
    const unfit = whyNot(archive);
    if (unfit !== null) return this.#without(wish, unfit);
    // A thread writes the tree while this one asks the kernel.
    const opened = wish === 'kernel' ? settled(this.open(archive)) : null;
    const reason = this.#whyNotHere();
    if (reason !== null) {
      void opened?.then(({ value }) => value?.close());
      return this.#without(wish, reason);
    }
    try {
      const set = wish === 'auto' ? 'auto, and it can' : 'as set';
      const { value, error } = await (opened ?? settled(this.open(archive)));
      if (value === null) throw error;
      return { state: { kind: 'kernel', reason: set, files: [] }, tree: value };
    } catch (error) {
      // A damaged archive is no reason for another plane.
      if (!(error instanceof ClipError) || error instanceof FormatError) throw error;
      return this.#without(wish, error.message);
    }
  }

  #without(wish: PlaneWish, reason: string): ChosenPlane {
    if (wish === 'auto') return fusePlane(reason);
    throw new ClipError('UNSUPPORTED', `--plane kernel: ${reason}`, {
      hint: '--plane auto takes the kernel where it can, and FUSE otherwise',
    });
  }

  /** The archive's tree, for the kernel. @throws ClipError */
  open(archive: Archive): Promise<KernelTree> {
    return this.#trees.open({ digest: archive.digest, tree: () => archive.tree, layerBytes: layerBytesOf(archive) });
  }

  #whyNotHere(): string | null {
    if (!kernelSourceFits(this.#root)) return `the path ${this.#root} is too long for the kernel`;
    this.#support ??= probeKernelPlane(this.#cacheDir);
    return this.#support.supported ? null : this.#support.reason;
  }
}

/** How a promise ended. It never rejects, so it may be waited for later. */
function settled<T>(promise: Promise<T>): Promise<{ value: T | null; error: unknown }> {
  return promise.then(
    (value) => ({ value, error: null }),
    (error: unknown) => ({ value: null, error }),
  );
}

/** The sizes of the layers' tars. */
export function layerBytesOf(archive: Archive): number[] {
  return archive.image.layers.map((layer) => layer.uncompressedSize);
}

/** What in an archive only the FUSE plane can serve (docs/architecture.md, "The tree is an EROFS image"). */
function whyNot(archive: Archive): string | null {
  if (archive.placement !== null) return 'the archive has files whose data EROFS cannot describe';
  const odd = layerBytesOf(archive).findIndex((bytes) => bytes % BLOCK !== 0);
  return odd < 0 ? null : `the tar of layer ${odd + 1} ends in the middle of a block`;
}
