import { constants } from 'node:os';
import { isatty } from 'node:tty';
import type { Command } from 'commander';
import { ClipError } from '../../bytes/index.js';
import type { SignalRelay } from '../../container/index.js';
import { IDLE_EXIT_SECONDS } from '../../wire/index.js';
import { addDaemonFlags, askedOfDaemon, type DaemonFlags, daemonSettings, locate } from '../daemon-flags.js';
import { addPullFlags, archiveOf, type ImageFlags, layerKeeper, warn, withDataPlace } from '../image-flags.js';
import { indexOldLayers } from '../old-layers.js';
import { Operand } from '../operand.js';
import { printResult } from '../output.js';
import { addOverlayFlags, type OverlayFlags, overlayOptions, planeOption } from '../overlay-flags.js';
import { addProcessFlags, type ProcessFlags, processOptions } from '../process-flags.js';
import { credentialsFrom } from '../registry-flags.js';
import { addStorageFlags, type StorageFlags, storageFrom } from '../storage-flags.js';

interface Flags extends ImageFlags, StorageFlags, DaemonFlags, OverlayFlags, ProcessFlags {
  readonly rm?: boolean;
  readonly interactive?: boolean;
  readonly tty?: boolean;
  readonly detach?: boolean;
  readonly name?: string;
  readonly runtime?: string;
  readonly stats?: boolean;
}

function checkTerminal(flags: Flags): void {
  if (flags.tty !== true) return;
  if (flags.detach === true) {
    throw new ClipError('USAGE', '-t and -d exclude each other: a container in the background has no terminal', {
      hint: 'leave one of them out',
    });
  }
  if (isatty(0) && isatty(1)) return;
  throw new ClipError('USAGE', '-t needs a terminal as standard input and output', { hint: 'leave -t out' });
}

async function run(args: readonly string[], given: Flags, signals: SignalRelay): Promise<void> {
  const requested = performance.now();
  checkTerminal(given);
  if (given.clip === undefined && given.image === undefined) {
    throw new ClipError('USAGE', 'no image is named', { hint: 'clipctl run IMAGE [COMMAND…]' });
  }
  const { checkBeforeImage, runInContainer, startContainer } = await import('../../container/index.js');
  const location = await locate(given);
  const asked = {
    ...overlayOptions(given),
    ...(given.name === undefined ? {} : { id: given.name }),
    ...(given.runtime === undefined ? {} : { runtime: given.runtime }),
    ...processOptions(given, args),
  };
  checkBeforeImage(asked, location.root);
  const kept = given.plane === 'unpack' ? await layerKeeper(given) : null;
  const archivePath = await archiveOf(given, signals.calledOff, kept ?? undefined);
  const flags = await withDataPlace(given, archivePath);
  await indexOldLayers(archivePath, flags, signals.calledOff);
  const credentials = credentialsFrom(flags);
  const { runStats } = flags.stats === true ? await import('../run-stats.js') : { runStats: null };
  const stats = runStats?.(requested) ?? null;
  const inherited = flags.interactive === true || flags.tty === true ? 'inherit' : 'ignore';
  const out = stats !== null && flags.tty !== true ? 'pipe' : 'inherit';
  const options = {
    archivePath,
    settings: { ...daemonSettings(location, flags), idleExit: IDLE_EXIT_SECONDS },
    daemon: askedOfDaemon(location, flags),
    mount: {
      options: {
        ...(flags.plainHttp === true ? { plainHttp: true } : {}),
        ...planeOption(flags),
        ...storageFrom(flags),
      },
      ...(credentials === undefined ? {} : { credentials }),
    },
    ...asked,
    terminal: flags.tty ?? false,
    ...(flags.tty === true ? { terminalSize: { rows: process.stdout.rows, columns: process.stdout.columns } } : {}),
    onWarning: warn,
  } as const;
  if (flags.detach === true) {
    const common = [process.execPath, process.argv[1]!, '--root', location.root, '--cache-dir', location.cacheDir];
    const cleanUp = flags.rm === true ? (id: string) => [...common, 'umount', '--cid', id] : null;
    const { id } = await startContainer(options, cleanUp, { kept, signals });
    printResult({ id }, flags.json === true, () => id);
    return;
  }
  const attached = {
    ...options,
    remove: flags.rm ?? false,
    forwardSignals: true,
    stdio: [inherited, out, out],
    ...(stats === null ? {} : { onOutput: stats.onOutput, onEnded: stats.onEnded }),
  } as const;
  const asking = performance.now() - requested;
  const result = await runInContainer(attached, { kept, signals });
  if (stats !== null) stats.print(result, asking);
  // Without waiting for idle connections and for the engine to take itself apart: 80 ms of a short run.
  process.exit(result.exitCode);
}

/** Leaves nothing behind after a signal either, and says once what the runtime has said already. */
async function runOrLeaveNothing(args: readonly string[], flags: Flags): Promise<void> {
  const { SignalRelay: Relay, StartError } = await import('../../container/index.js');
  const signals = new Relay();
  try {
    await run(args, flags, signals);
  } catch (error) {
    // As the shell has it for a program that a signal ended, and with nothing to say.
    const calledOff = error instanceof ClipError && error.code === 'ABORTED';
    if (calledOff && signals.received !== null) process.exit(128 + constants.signals[signals.received]);
    if (!(error instanceof StartError) || !error.heard || flags.json === true) throw error;
    const { exitCode, hint } = error;
    const message = 'the container did not start: the line above says why';
    throw new StartError(exitCode, message, { cause: error, ...(hint === undefined ? {} : { hint }) });
  }
}

export function registerRun(program: Command): void {
  const command = program
    .command('run')
    .description('run a command of an image in a container')
    .addArgument(new Operand('image|file', 'an image, or an archive (as --clip)', ['clip', 'image']))
    .argument('[command...]', "the command (default: the image's own)")
    .passThroughOptions()
    .option('--clip <file>', 'an archive, or s3://BUCKET/KEY, in place of an image')
    .option('--rm', 'take the container down when it has ended')
    .option('-i, --interactive', 'connect standard input')
    .option('-t, --tty', 'give it a terminal')
    .option('-d, --detach', 'leave it in the background and print its id')
    .option('--name <id>', 'its id (default: twelve hex digits)')
    .option('--runtime <program>', 'runc, crun, runsc, or a path (default: runc, else crun)')
    .option('--stats', 'print at the end when it started and how much it fetched');
  addDaemonFlags(addStorageFlags(addPullFlags(addOverlayFlags(addProcessFlags(command))))).action(runOrLeaveNothing);
}
