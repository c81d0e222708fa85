import { keeperMain } from './run-daemon.js';

await keeperMain(process.argv[2]);
