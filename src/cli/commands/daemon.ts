import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { type Command, Option } from 'commander';
import { ClipError } from '../../bytes/index.js';
import { type DaemonSettings, type PlaneWish, SERVER_MAIN } from '../../wire/index.js';
import { addDaemonFlags, checkContentCache, type DaemonFlags, daemonSettings, locate } from '../daemon-flags.js';
import { listenAddress } from '../numbers.js';
import { printResult } from '../output.js';
import { PLANES, planeOption } from '../overlay-flags.js';
import { originOf } from '../settings.js';

interface Flags extends DaemonFlags {
  readonly stop?: boolean;
  readonly upgrade?: boolean;
  readonly plane?: PlaneWish;
  readonly metricsAddr?: MetricsAddress;
}

type MetricsAddress = NonNullable<DaemonSettings['metricsAddress']>;

/** A clipd ends within 5 s of being told to. */
const STOP_MS = 10_000;
/** A server that is silent for so long is left out: its keeper is told by a signal, and gives the server 3 s more. */
const STOP_SILENCE_MS = 5000;

async function run(flags: Flags): Promise<void> {
  const { becomeKeeper } = await import('../../keeper/index.js');
  if (
    flags.logLevel !== undefined &&
    originOf('logLevel') === undefined &&
    (await changeLogLevel(flags, flags.logLevel))
  )
    return;
  const location = await locate(flags);
  await checkContentCache(flags);
  const metricsAddress = flags.metricsAddr;
  if (metricsAddress !== undefined) await checkAddress(metricsAddress);
  // This process goes on as the keeper, without clipctl's modules, because systemd knows it by its process id.
  const settings = {
    ...daemonSettings(location, flags),
    ...planeOption(flags),
    ...(metricsAddress === undefined ? {} : { metricsAddress }),
  };
  becomeKeeper(settings, flags.json === true);
}

/** Of a clipd that runs already. False: none does, and this one is to be started with that level. */
async function changeLogLevel(flags: Flags, level: NonNullable<Flags['logLevel']>): Promise<boolean> {
  const { ClipdClient, NotRunningError } = await import('../../client/index.js');
  const { root } = await locate(flags);
  try {
    const value = await new ClipdClient(root).setLogLevel(level);
    printResult({ root, ...value }, flags.json === true, () => `log level ${value.level} (was ${value.before})`);
    return true;
  } catch (error) {
    if (error instanceof NotRunningError) return false;
    throw error;
  }
}

/** A server tries again and again, because the one before it may hold the port. What cannot succeed is said now. */
async function checkAddress({ host, port }: MetricsAddress): Promise<void> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) =>
      reject(
        new ClipError('BUSY', `cannot serve metrics at ${host} port ${port}: ${cause.code}`, {
          cause,
          hint: 'give another --metrics-addr',
        }),
      ),
    );
    server.listen({ host, port }, () => server.close(() => resolve()));
  });
}

/** Also true of a zombie, which waits for its parent only. */
function hasEnded(pid: number): boolean {
  try {
    return /^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return true;
  }
}

/**
 * Tells a clipd to end.
 * @returns the process id of its keeper
 */
async function tellToStop(root: string): Promise<number> {
  const { ClipdClient, keeperPidOf } = await import('../../client/index.js');
  const client = new ClipdClient(root, STOP_SILENCE_MS);
  try {
    const { keeperPid } = await client.health();
    await client.stop(false);
    return keeperPid;
  } catch (error) {
    if (!(error instanceof ClipError) || error.code !== 'SYSTEM') throw error;
    // No server lives for long enough to answer.
    const pid = keeperPidOf(root);
    if (pid === null) throw error;
    process.kill(pid, 'SIGTERM');
    return pid;
  }
}

async function stop(flags: Flags): Promise<void> {
  const { root } = await locate(flags);
  const keeperPid = await tellToStop(root);
  for (const end = performance.now() + STOP_MS; performance.now() < end; ) {
    if (hasEnded(keeperPid)) {
      printResult({ root, stopped: true }, flags.json === true, () => '');
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new ClipError('SYSTEM', `clipd (pid ${keeperPid}) does not end`, { hint: `kill -9 ${keeperPid}` });
}

async function upgrade(flags: Flags): Promise<void> {
  const { ClipdClient } = await import('../../client/index.js');
  const client = new ClipdClient((await locate(flags)).root);
  const before = await client.health();
  await client.upgrade(SERVER_MAIN);
  for (const end = performance.now() + STOP_MS; performance.now() < end; ) {
    const now = await client.health();
    if (now.serverPid !== before.serverPid) {
      const value = { from: before.version, to: now.version, serverPid: now.serverPid };
      printResult(value, flags.json === true, () => `clipd serves version ${now.version} (was ${before.version})`);
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new ClipError('SYSTEM', 'the new server does not take over', {
    hint: 'its log says why (docs/operations.md, "The log")',
  });
}

export function registerDaemon(program: Command): void {
  const command = program
    .command('daemon')
    .description('run clipd in the foreground; end or upgrade the running one')
    .option('--stop', 'unmount everything and end the running clipd')
    .option('--upgrade', 'replace its server by this version; mounts stay')
    .addOption(new Option('--plane <how>', 'for mounts that do not say: see mount (default: fuse)').choices(PLANES))
    .option(
      '--metrics-addr <addr>',
      'also serve the metrics at PORT of this machine alone, or at HOST:PORT',
      listenAddress,
    );
  addDaemonFlags(command, '').action(async (flags: Flags) => {
    if (flags.stop && flags.upgrade) throw new ClipError('USAGE', '--stop and --upgrade exclude each other');
    await (flags.stop ? stop(flags) : flags.upgrade ? upgrade(flags) : run(flags));
  });
}
