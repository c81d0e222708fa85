export { noteUse, type SharedLayer, spanAt } from './types.js';
