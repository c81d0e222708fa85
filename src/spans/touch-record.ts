/** Reads are recorded by the page, because the kernel asks for whole pages. */
export const TOUCH_PAGE = 4096;

/** Recording costs 4 bytes a page, so 64 MiB for an image of this size. A larger image is not recorded. */
const MAX_RECORDED_BYTES = 64 * 1024 ** 3;

/**
 * Which pages of a layer the readers of one mount have touched first, second, …. Written by all FUSE workers, in shared
 * memory; races cost at most an order number.
 */
export interface TouchRecord {
  /** Per 4 KiB of the uncompressed layer: 0 = never, else when it was first touched, in touches of the mount. */
  readonly pages: Int32Array;
  /** [0]: touches so far, [1]: 1 while recording. One for all layers of a mount. */
  readonly clock: Int32Array;
}

/** One record for each layer of a mount, or null when the image is too large for it. Recording begins at once. */
export function newTouchRecords(layerSizes: readonly number[]): TouchRecord[] | null {
  if (layerSizes.reduce((a, b) => a + b, 0) > MAX_RECORDED_BYTES) return null;
  const clock = new Int32Array(new SharedArrayBuffer(8));
  clock[1] = 1;
  return layerSizes.map((size) => ({
    pages: new Int32Array(new SharedArrayBuffer(4 * Math.ceil(size / TOUCH_PAGE))),
    clock,
  }));
}

export function recording(record: TouchRecord): boolean {
  return Atomics.load(record.clock, 1) === 1;
}

/** Workers stop with their next read; what was recorded stays. */
export function stopRecording(record: TouchRecord): void {
  Atomics.store(record.clock, 1, 0);
}

/** Bytes [offset, offset + length) of the layer were read. On the path of every hit: allocates nothing. */
export function noteTouch(record: TouchRecord, offset: number, length: number): void {
  const { pages, clock } = record;
  if (clock[1] === 0) return;
  const end = Math.min(pages.length, Math.ceil((offset + length) / TOUCH_PAGE));
  for (let page = Math.floor(offset / TOUCH_PAGE); page < end; page++) {
    if (pages[page] === 0) pages[page] = Atomics.add(clock, 0, 1) + 1;
  }
}
