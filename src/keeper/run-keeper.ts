import { closeSync, constants, readlinkSync, readSync, writeSync } from 'node:fs';
import { ClipError, EXIT_CODES, printable, printableJson } from '../bytes/index.js';
import { notifySystemd, replaceProcess } from '../linux/index.js';
import { LOG_NAME, logEntry } from '../metrics/index.js';
import { OwnDirectory } from '../paths/index.js';
import {
  ADOPT,
  type DaemonSettings,
  KEEPER_FLAGS,
  KEEPER_MAIN,
  type KeeperReport,
  type KeeperStart,
  keeperEnvironment,
  SERVER_MAIN,
  SETTINGS_VARIABLE,
  toWireError,
  turnToLog,
} from '../wire/index.js';
import { adoptEarly, type EarlyServer, launchEarly } from './server-program.js';

/**
 * Runs a clipd in this process, which becomes its keeper, until it is told to stop.
 * @param report gets each change of state
 * @param ownLog standard error is the log in the root, which is kept small
 * @param early a server that has been launched, and the socket that it will listen on
 * @throws ClipError when it cannot start or serve
 */
async function runDaemon(
  settings: DaemonSettings,
  report: (report: KeeperReport) => void,
  ownLog: boolean,
  early: EarlyServer | null,
): Promise<void> {
  process.title = 'clipd keeper';
  const { Keeper } = await import('./keeper.js');
  const keeper = await Keeper.start(settings, SERVER_MAIN, ownLog, early);
  const stop = (): void => {
    notifySystemd('STOPPING=1');
    void keeper.stop();
  };
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

/**
 * Turns this process into a keeper that reports to people: `clipctl daemon`. Returns only by throwing.
 * @param json failures are documents on standard output, too
 */
export function becomeKeeper(settings: DaemonSettings, json = false): never {
  const env = keeperEnvironment(process.env);
  for (const name of Object.keys(process.env)) if (env[name] === undefined) delete process.env[name];
  // Which the program inherits.
  Object.assign(process.env, env, { [SETTINGS_VARIABLE]: JSON.stringify(settings) });
  replaceProcess(process.execPath, [...KEEPER_FLAGS, KEEPER_MAIN, FOREGROUND, ...(json ? [JSON_FAILURES] : [])]);
}

const FOREGROUND = 'foreground';
/** A failure is also a document on standard output (docs/cli.md, "Exit codes"). */
const JSON_FAILURES = 'json';

/** As JSON lines, for startKeeper. */
function reportToStarter(report: KeeperReport): void {
  try {
    writeSync(1, `${JSON.stringify(report)}\n`);
  } catch {
    // Whoever started us has gone.
  }
}

function reportToPeople(root: string, json: boolean, report: KeeperReport): void {
  if (report.state === 'listening') pointToLog(root);
  if (report.state === 'serving') process.stderr.write(`clipctl: clipd serves at ${root}\n`);
  if (report.state !== 'failed') return;
  if (json) {
    const { code, message, hint = null } = report.error;
    process.stdout.write(`${printableJson({ error: { code, message, hint } }, 2)}\n`);
  }
  process.stderr.write(`clipctl: ${printable(report.error.message)}\n`);
  if (report.error.hint !== undefined) process.stderr.write(`  ${printable(report.error.hint)}\n`);
}

/**
 * The log of a clipd in the foreground is its standard error, which a service manager keeps. A reader who looks where other clipds
 * have theirs (docs/operations.md, "The log") finds a line that says so.
 */
function pointToLog(root: string): void {
  const stderr = readlinkSync('/proc/self/fd/2'); // a path, "pipe:[1234]", or "socket:[1234]"
  const journal = process.env.JOURNAL_STREAM === undefined ? {} : { see: 'journalctl -u clipd' };
  const line = logEntry('keeper', 'info', 'the log of this clipd is its standard error', { stderr, ...journal });
  const directory = OwnDirectory.open(root);
  try {
    const fd = directory.open(LOG_NAME, constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT);
    writeSync(fd, line);
    closeSync(fd);
  } catch {
    // A full or read-only disk: no reason not to serve.
  } finally {
    directory.close();
  }
}

/** The log of a keeper that a client has launched, and of its servers, is a file in their root. */
function turnToOwnLog(root: string): void {
  const directory = OwnDirectory.open(root, { make: true });
  try {
    turnToLog(directory);
  } finally {
    directory.close();
  }
}

/** Blocks until it is there: nothing else is to be done. Null: the client needs no clipd, or has ended. */
function readStart(): KeeperStart | null {
  const buffer = Buffer.alloc(64 * 1024);
  const read: Buffer[] = [];
  for (;;) {
    const length = readSync(0, buffer);
    if (length === 0) return null;
    read.push(Buffer.from(buffer.subarray(0, length)));
    if (buffer[length - 1] === 10) return JSON.parse(Buffer.concat(read).toString()) as KeeperStart;
  }
}

/** The keeper as a program of its own. */
export async function keeperMain([mode, detail]: readonly string[]): Promise<void> {
  const foreground = mode === FOREGROUND;
  let settings: DaemonSettings;
  let early: EarlyServer | null = null;
  if (foreground) settings = JSON.parse(process.env[SETTINGS_VARIABLE] ?? '') as DaemonSettings;
  else {
    // Both boot while the client finds out what to start. A server ends with its keeper.
    early = mode === ADOPT ? adoptEarly(Number(detail)) : launchEarly(SERVER_MAIN);
    await import('./keeper.js');
    const start = readStart();
    if (start === null) return void early.program.child.kill('SIGKILL');
    Object.assign(process.env, start.environment);
    settings = start.settings;
  }
  const report = foreground
    ? (value: KeeperReport) => reportToPeople(settings.root, detail === JSON_FAILURES, value)
    : reportToStarter;
  try {
    if (!foreground) turnToOwnLog(settings.root);
    await runDaemon(settings, report, !foreground, early);
  } catch (error) {
    early?.program.child.kill('SIGKILL');
    if (!(error instanceof ClipError)) process.stderr.write(`${String((error as Error).stack ?? error)}\n`);
    report({ state: 'failed', error: toWireError(error) });
    process.exitCode = error instanceof ClipError ? EXIT_CODES[error.code] : 1;
  }
}
