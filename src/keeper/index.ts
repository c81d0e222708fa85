export { becomeKeeper } from './run-keeper.js';
