import { keeperMain } from './run-keeper.js';

void keeperMain(process.argv[2]);
