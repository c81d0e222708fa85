export { noteUse, type SharedLayer, spanAt } from './shared-layer.js';
export { newTouchRecords, noteTouch, recording, stopRecording, TOUCH_PAGE, type TouchRecord } from './touch-record.js';
