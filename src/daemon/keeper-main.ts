import { keeperMain } from './run-daemon.js';

void keeperMain(process.argv[2]);
