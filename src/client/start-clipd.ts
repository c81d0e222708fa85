import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, constants } from 'node:fs';
import { join } from 'node:path';
import { ClipError } from '../bytes/index.js';
import { LOG_NAME } from '../metrics/index.js';
import { OwnDirectory } from '../paths/index.js';
import {
  type DaemonSettings,
  fromWireError,
  KEEPER_FLAGS,
  KEEPER_MAIN,
  type KeeperReport,
  keeperEnvironment,
  SETTINGS_VARIABLE,
} from '../wire/index.js';

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
  const log = openLog(settings.root);
  const env = { ...keeperEnvironment(process.env), [SETTINGS_VARIABLE]: JSON.stringify(settings) };
  const child = spawn(process.execPath, [...KEEPER_FLAGS, KEEPER_MAIN], {
    env,
    detached: true,
    cwd: '/',
    stdio: [settings.private === true ? 'pipe' : 'ignore', 'pipe', log],
  });
  closeSync(log);
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
  if (child.stdin !== null) (child.stdin as unknown as { unref(): void }).unref();
  return { child, serving };
}

function openLog(root: string): number {
  const directory = OwnDirectory.open(root, { make: true });
  try {
    return directory.open(LOG_NAME, constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT);
  } finally {
    directory.close();
  }
}
