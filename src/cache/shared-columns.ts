import type { SpanColumns } from '../archive/index.js';
import type { SharedLayer } from '../spans/index.js';

let nextLayerId = 1;

function shared<T>(make: (buffer: SharedArrayBuffer) => T, bytes: number): T {
  return make(new SharedArrayBuffer(bytes));
}

/** What all threads see of a layer that is about to be opened: no span is present. */
export function newSharedLayer(table: SpanColumns, fd: number, clock: Int32Array): SharedLayer {
  const { count } = table;
  let offsets = table.layerOffset;
  if (!(offsets.buffer instanceof SharedArrayBuffer)) {
    offsets = shared((b) => new Float64Array(b), 8 * (count + 1));
    offsets.set(table.layerOffset);
  }
  return {
    id: nextLayerId++,
    offsets,
    generations: shared((b) => new Int32Array(b), 4 * count),
    fd,
    lastUse: shared((b) => new Int32Array(b), 4 * count),
    clock,
  };
}
