import type { ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { ClipError } from '../bytes/index.js';
import { LOG_NAME } from '../metrics/index.js';
import {
  type DaemonSettings,
  fromWireError,
  type KeeperReport,
  type KeeperStart,
  keeperEnvironment,
} from '../wire/index.js';
import { takeKeeper } from './keeper-process.js';

const START_TIMEOUT_MS = 20_000;

export interface StartedKeeper {
  readonly child: ChildProcess;
  /** Rejects when it cannot serve after all (the cache directory is in use, say). */
  readonly serving: Promise<void>;
}

/**
 * Starts a keeper in a session of its own; resolves when its socket listens. Its log goes to ROOT/clipd.log.
 * @throws ClipError BUSY when another clipd was quicker
 */
export async function startKeeper(settings: DaemonSettings): Promise<StartedKeeper> {
  const child = takeKeeper();
  const start: KeeperStart = { settings, environment: keeperEnvironment(process.env) };
  child.stdin!.write(`${JSON.stringify(start)}\n`);
  // The end of a library's keeper is that of its standard input.
  if (settings.private !== true) child.stdin!.end();
  const states = new Map<KeeperReport['state'], () => void>();
  let fail: (error: Error) => void = () => {};
  const failed = new Promise<never>((_, reject) => {
    fail = reject;
  });
  failed.catch(() => {});
  const reached = (state: KeeperReport['state']): Promise<void> =>
    Promise.race([new Promise<void>((resolve) => states.set(state, resolve)), failed]);
  const listening = reached('listening');
  const serving = reached('serving');
  serving.catch(() => {});
  let text = '';
  child.stdout!.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
      const report = JSON.parse(text.slice(0, end)) as KeeperReport;
      text = text.slice(end + 1);
      if (report.state === 'failed') fail(fromWireError(report.error));
      else states.get(report.state)?.();
    }
  });
  child.once('error', (cause) => fail(new ClipError('SYSTEM', `cannot start clipd: ${cause.message}`, { cause })));
  child.once('exit', (code, signal) =>
    fail(
      new ClipError('SYSTEM', `clipd ended while starting (${signal ?? `exit ${code}`})`, {
        hint: `its log is ${join(settings.root, LOG_NAME)}`,
      }),
    ),
  );
  const timer = setTimeout(() => fail(new ClipError('SYSTEM', 'clipd does not come up')), START_TIMEOUT_MS);
  try {
    await listening;
  } finally {
    clearTimeout(timer);
  }
  // It lives on without us.
  child.unref();
  (child.stdout as unknown as { unref(): void }).unref();
  (child.stdin as unknown as { unref(): void }).unref();
  return { child, serving };
}
