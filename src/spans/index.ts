/**
 * The state of a layer's spans that the threads of a server share: geometry, generations, the order of uses, touched pages. Pure
 * over shared memory, no I/O: filling spans is lazy/'s, keeping them cache/'s. Runs in every thread of a server.
 */

export { noteUse, type SharedLayer, spanAt } from './shared-layer.js';
export { newTouchRecords, noteTouch, recording, stopRecording, TOUCH_PAGE, type TouchRecord } from './touch-record.js';
