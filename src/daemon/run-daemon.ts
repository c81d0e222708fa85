import { writeSync } from 'node:fs';
import { ClipError } from '../bytes/index.js';
import { notifySystemd } from '../linux/index.js';
import { type DaemonSettings, loadKeeper, toWireError } from '../mount/index.js';
import { type KeeperReport, SERVER_MAIN } from './start.js';

/**
 * Runs a clipd in this process, which becomes its keeper, until it is told to stop.
 * @param report gets each change of state
 * @throws ClipError when it cannot start or serve
 */
export async function runDaemon(settings: DaemonSettings, report: (report: KeeperReport) => void): Promise<void> {
  process.title = 'clipd keeper';
  const { Keeper } = await loadKeeper();
  const keeper = await Keeper.start(settings, SERVER_MAIN);
  const stop = (): void => void keeper.stop();
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, stop);
  if (settings.private) {
    // Its owner holds the other end of our standard input, and closes it by ending, however it ends.
    process.stdin.on('end', stop).on('error', stop).resume();
  }
  report({ state: 'listening' });
  try {
    await keeper.serving();
    report({ state: 'serving' });
    notifySystemd('READY=1');
  } finally {
    await keeper.ended;
    process.stdin.destroy();
  }
}

/** The keeper as a program of its own: reports as JSON lines on standard output. */
export async function keeperMain(argument: string | undefined): Promise<void> {
  const report = (value: KeeperReport): void => {
    try {
      writeSync(1, `${JSON.stringify(value)}\n`);
    } catch {
      // Whoever started us has gone.
    }
  };
  try {
    await runDaemon(JSON.parse(argument ?? '') as DaemonSettings, report);
  } catch (error) {
    if (!(error instanceof ClipError)) process.stderr.write(`${String((error as Error).stack ?? error)}\n`);
    report({ state: 'failed', error: toWireError(error) });
    process.exitCode = 1;
  }
}
