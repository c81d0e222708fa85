/**
 * What the threads of a server know of a layer's spans: geometry, generations and the hit protocol, the order of uses, touched
 * pages. Pure, over shared memory, no I/O: filling spans is lazy/'s, keeping them cache/'s. Runs in every thread of a server.
 */

export { type BlockCheck, blockCheck, blocksOf, checkBlocks, type PartSum, partOf } from './block-check.js';
export { BlockSums } from './block-sums.js';
export { HitCheck, hide, isPresent, noteUse, publish, type SpanTarget } from './hits.js';
export { LayerSpans, spanAt } from './layer-spans.js';
export type { SharedLayer } from './shared-layer.js';
export { newTouchRecords, noteTouch, recording, stopRecording, TOUCH_PAGE, type TouchRecord } from './touch-record.js';
