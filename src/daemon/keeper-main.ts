import { keeperMain } from './run-daemon.js';

await keeperMain(process.argv[2], process.argv[3]);
