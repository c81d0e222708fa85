import { keeperMain } from './run-keeper.js';

void keeperMain(process.argv.slice(2));
