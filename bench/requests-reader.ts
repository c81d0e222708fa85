// A reader of npm run torture -- --requests: one walk over its share of the tree for each message.
import { closeSync, constants, lstatSync, openSync, readdirSync, readSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';

export interface WalkerData {
  readonly place: string;
  /** Directories of small files, to be listed and looked up. */
  readonly directories: readonly string[];
  /** Files to read from. */
  readonly files: readonly { readonly path: string; readonly size: number }[];
  readonly readsPerWalk: number;
}

const { place, directories, files, readsPerWalk } = workerData as WalkerData;
const buffer = Buffer.allocUnsafeSlow(128 * 1024);
let walk = 0;

function lookUpNothing(path: string): void {
  if (lstatSync(path, { throwIfNoEntry: false }) !== undefined) throw new Error(`${path} is there`);
}

/** O_DIRECT asks the server for every byte. */
function readSomewhere(): void {
  const { path, size } = files[Math.floor(Math.random() * files.length)]!;
  const fd = openSync(`${place}/${path}`, constants.O_RDONLY | constants.O_DIRECT);
  try {
    const pages = Math.floor((size - 1) / 4096) + 1;
    readSync(fd, buffer, 0, 4096 << Math.floor(Math.random() * 6), 4096 * Math.floor(Math.random() * pages));
  } finally {
    closeSync(fd);
  }
}

parentPort!.on('message', () => {
  walk++;
  let reads = 0;
  for (const [i, directory] of directories.entries()) {
    const path = `${place}/${directory}`;
    for (const name of readdirSync(path)) lstatSync(`${path}/${name}`);
    lookUpNothing(`${path}/none-${walk}`);
    for (; reads < (readsPerWalk * (i + 1)) / directories.length; reads++) readSomewhere();
  }
  parentPort!.postMessage('walked');
});
