import { type ChildProcess, spawn } from 'node:child_process';
import { KEEPER_FLAGS, KEEPER_MAIN, keeperEnvironment } from '../wire/index.js';

/** Launched, and told nothing yet. */
let waiting: ChildProcess | null = null;

/** A keeper in a session of its own. It waits for its settings, one line on its standard input, and ends without them. */
function launch(): ChildProcess {
  const child = spawn(process.execPath, [...KEEPER_FLAGS, KEEPER_MAIN], {
    env: keeperEnvironment(process.env),
    detached: true,
    cwd: '/',
    // It turns its standard error to the log of the root that it is told.
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  child.stdin!.on('error', () => {}); // its exit says more
  return child;
}

/** Lets a keeper boot while this process finds out what to tell it. It ends with this process if that never happens. */
export function launchKeeper(): void {
  waiting = launch();
  waiting.on('error', () => dropKeeper());
  waiting.unref();
  for (const stream of [waiting.stdin, waiting.stdout]) (stream as unknown as { unref(): void }).unref();
}

/** No keeper is needed after all. */
export function dropKeeper(): void {
  waiting?.stdin?.destroy();
  waiting = null;
}

/** The keeper that was launched, or a new one. */
export function takeKeeper(): ChildProcess {
  const child = waiting;
  waiting = null;
  if (child === null || child.pid === undefined || child.exitCode !== null || child.signalCode !== null)
    return launch();
  child.ref();
  (child.stdout as unknown as { ref(): void }).ref();
  return child;
}
