import type { LayerId, SpanIndex } from '../bytes/index.js';
import { type ErofsReader, InodeView, mapFileRange, type Placement, visitInodes } from '../erofs/index.js';
import type { FileRange } from '../fuse/index.js';
import { type SharedLayer, spanAt } from '../spans/index.js';

/** Spans whose bytes were freed while the kernel may have pages of them. */
export class FreedSpans {
  /** By SharedLayer.id. */
  readonly #spans = new Map<LayerId, Set<SpanIndex>>();

  add(layer: SharedLayer, span: SpanIndex): void {
    const spans = this.#spans.get(layer.id);
    if (spans === undefined) this.#spans.set(layer.id, new Set([span]));
    else spans.add(span);
  }

  get empty(): boolean {
    return this.#spans.size === 0;
  }

  /** True when the image has one of the layers. */
  concerns(layers: readonly SharedLayer[]): boolean {
    return layers.some(({ id }) => this.#spans.has(id));
  }

  /** The stretches of an image's files that lie in these spans. */
  rangesOf(reader: ErofsReader, placement: Placement | null, layers: readonly SharedLayer[]): FileRange[] {
    const ranges: FileRange[] = [];
    const scratch = new InodeView();
    visitInodes(reader, (nid, inode) => {
      if (!inode.isFile) return;
      let offset = 0;
      mapFileRange(reader, placement, scratch, nid, 0, inode.size, (layer, layerOffset, length) => {
        if (layer >= 0 && this.#touches(layers[layer]!, layerOffset, length)) ranges.push({ nid, offset, length });
        offset += length;
      });
    });
    return ranges;
  }

  #touches(layer: SharedLayer, offset: number, length: number): boolean {
    const spans = this.#spans.get(layer.id);
    if (spans === undefined) return false;
    const last = spanAt(layer.offsets, offset + length - 1);
    for (let span = spanAt(layer.offsets, offset); span <= last; span++) if (spans.has(span)) return true;
    return false;
  }
}
