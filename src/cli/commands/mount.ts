import { existsSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import type { Command } from 'commander';
import { ClipError } from '../../bytes/index.js';
import type { ClipdClient } from '../../client/index.js';
import type { KeptLayers } from '../../oci/index.js';
import {
  DEFAULT_IMAGE_OPTIONS,
  IDLE_EXIT_SECONDS,
  type ImageOptions,
  type MountInfoReply,
  SOCKET_NAME,
} from '../../wire/index.js';
import {
  addDaemonFlags,
  askedOfDaemon,
  checkContentCache,
  type DaemonFlags,
  daemonSettings,
  locate,
} from '../daemon-flags.js';
import { addImageFlags, archiveOf, type ImageFlags, layerKeeper, warn, withDataPlace } from '../image-flags.js';
import { seconds } from '../numbers.js';
import { indexOldLayers } from '../old-layers.js';
import { archiveOrImage, Operand } from '../operand.js';
import { printNote, printPath } from '../output.js';
import { addOverlayFlags, type OverlayFlags, overlayOptions, planeOption } from '../overlay-flags.js';
import { needsOwnProcess } from '../own-process.js';
import { addProcessFlags, networkOptions, type ProcessFlags, processOptions } from '../process-flags.js';
import { credentialsFrom } from '../registry-flags.js';
import { addStorageFlags, type StorageFlags, storageFlags, storageFrom } from '../storage-flags.js';

interface Flags extends DaemonFlags, ImageFlags, OverlayFlags, ProcessFlags, StorageFlags {
  readonly at?: string;
  readonly cid?: string;
  readonly foreground?: boolean;
  readonly readahead: boolean;
  readonly prefetch: boolean;
  readonly fill?: boolean;
  readonly paranoid?: boolean;
  readonly readTimeout?: number;
  readonly suid?: boolean;
  readonly dev?: boolean;
}

/** Only the options that the user set: a default does not conflict with an existing mount. */
function imageOptions(flags: Flags): Partial<ImageOptions> {
  return {
    ...(flags.readahead ? {} : { readahead: false }),
    ...(flags.prefetch ? {} : { prefetch: false }),
    ...(flags.fill === true ? { fill: true } : {}),
    ...(flags.paranoid === true ? { paranoid: true } : {}),
    ...planeOption(flags),
    ...(flags.readTimeout === undefined ? {} : { readTimeout: flags.readTimeout }),
    ...(flags.plainHttp === true ? { plainHttp: true } : {}),
    ...storageFrom(flags),
  };
}

/** Resolves with the first signal that asks this process to end. The second one ends it at once. */
function interruption(): { readonly signal: Promise<NodeJS.Signals>; readonly seen: () => NodeJS.Signals | null } {
  let seen: NodeJS.Signals | null = null;
  const signal = new Promise<NodeJS.Signals>((resolve) => {
    for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.once(name, () => {
        seen ??= name;
        resolve(name);
      });
    }
  });
  return { signal, seen: () => seen };
}

const UNDO_MS = 5000;

async function undo(client: ClipdClient, mountPoint: string, started: boolean): Promise<void> {
  await client.unmount({ mountPoint, mode: 'lazy' });
  if (!started) return;
  // On a busy host the kernel may take a moment to release the connection, and until then clipd is not idle.
  for (const end = performance.now() + UNDO_MS; performance.now() < end; ) {
    const { stopping } = await client.stop(true).catch(() => ({ stopping: true }));
    if (stopping) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** One of `--at` and `--cid`. */
async function mount(command: readonly string[], given: Flags): Promise<void> {
  if ((given.at === undefined) === (given.cid === undefined)) {
    throw new ClipError('USAGE', 'a place to mount at is needed, and one only', {
      hint: 'clipctl mount FILE|IMAGE DIR mounts the image read-only; --cid ID makes a container of it, with a writable layer',
    });
  }
  if (given.cid !== undefined || given.foreground === true) needsOwnProcess();
  const interrupted = interruption();
  const kept = given.plane === 'unpack' && given.cid !== undefined ? await layerKeeper(given) : null;
  const archivePath = await orEnd(interrupted, (signal) => archiveOf(given, signal, kept ?? undefined));
  const flags = await withDataPlace(given, archivePath);
  await orEnd(interrupted, (signal) => indexOldLayers(archivePath, flags, signal));
  if (flags.cid !== undefined) return mountForContainer(flags.cid, archivePath, command, flags, interrupted, kept);
  if (flags.plane === 'unpack') {
    throw new ClipError('USAGE', '--plane unpack is for containers (--cid)', {
      hint: 'clipctl unpack makes a directory of the image',
    });
  }
  if (command.length > 0)
    throw new ClipError('USAGE', `unexpected: ${command.join(' ')}`, { hint: 'clipctl help mount' });
  await mountAt(flags.at!, archivePath, flags, interrupted);
}

/** Ctrl-C while an image or the layers of an old archive are indexed ends that at once: nothing is left behind, and nothing is mounted. */
async function orEnd<T>(
  interrupted: ReturnType<typeof interruption>,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  void interrupted.signal.then(() => controller.abort());
  try {
    return await work(controller.signal);
  } catch (error) {
    const by = interrupted.seen();
    if (by === null) throw error;
    process.exit(128 + constants.signals[by]);
  }
}

/** A writable layer over the image, and an OCI bundle: `runc run --bundle ROOT/ID ID` runs it. */
async function mountForContainer(
  id: string,
  archivePath: string,
  command: readonly string[],
  flags: Flags,
  interrupted: ReturnType<typeof interruption>,
  kept: KeptLayers | null,
): Promise<void> {
  const { architectureWarning, commandOf, createBundle, makeReadOnly, mountContainer, unmountContainer } = await import(
    '../../container/index.js'
  );
  const location = await locate(flags);
  await checkContentCache(flags);
  const credentials = credentialsFrom(flags);
  const { root, cacheDir } = location;
  const wanted = {
    ...overlayOptions(flags),
    ...networkOptions(flags),
    id,
    archivePath,
    settings: { ...daemonSettings(location, flags), idleExit: IDLE_EXIT_SECONDS },
    daemon: askedOfDaemon(location, flags),
    mount: {
      options: imageOptions(flags),
      ...(credentials === undefined ? {} : { credentials }),
      ...commandOf(processOptions(flags, command)),
    },
  };
  const container = await mountContainer(wanted, { kept });
  const { paths, state, image } = container;
  const takeDown = (): Promise<boolean> => unmountContainer(root, cacheDir, id, { force: true });
  try {
    const warning = architectureWarning(image);
    if (warning !== null) warn(warning);
    createBundle({ ...processOptions(flags, command), bundle: paths.bundle, id, rootfs: state.rootfs, image });
    if (flags.readOnly === true) makeReadOnly(state);
  } catch (error) {
    await takeDown();
    throw error;
  }
  let signal = interrupted.seen();
  if (signal === null) {
    const result = {
      id,
      bundle: paths.bundle,
      rootfs: state.rootfs,
      reference: image.reference,
      archivePath: state.archivePath,
    };
    printPath(result, flags.json === true, state.rootfs);
    if (flags.foreground !== true) return;
    const { ClipdClient } = await import('../../client/index.js');
    const end = await Promise.race([interrupted.signal, new ClipdClient(root).waitUnmounted(state.image)]);
    if (end === undefined) return;
    signal = end;
  }
  await takeDown();
  process.exit(128 + constants.signals[signal]);
}

async function mountAt(
  mountPoint: string,
  archivePath: string,
  flags: Flags,
  interrupted: ReturnType<typeof interruption>,
): Promise<void> {
  const { ClipdClient, mountStarting } = await import('../../client/index.js');
  const location = await locate(flags);
  if (!existsSync(join(location.root, SOCKET_NAME))) needsOwnProcess(); // it starts clipd
  await checkContentCache(flags);
  const credentials = credentialsFrom(flags);
  const client = new ClipdClient(location.root);
  const settings = { ...daemonSettings(location, flags), idleExit: IDLE_EXIT_SECONDS };
  const { mounted, started } = await mountStarting(
    client,
    settings,
    {
      archivePath,
      mountPoint,
      options: imageOptions(flags),
      suid: flags.suid ?? false,
      dev: flags.dev ?? false,
      ...(credentials === undefined ? {} : { credentials }),
    },
    askedOfDaemon(location, flags),
  );
  let signal = interrupted.seen();
  if (signal === null) {
    await print(mounted, flags);
    if (flags.foreground !== true) return;
    const end = await Promise.race([interrupted.signal, client.waitUnmounted(mounted.mountPoint)]);
    if (end === undefined) return;
    signal = end;
  }
  // Ctrl-C at any point leaves nothing behind; in the foreground it is the way to end the mount.
  await undo(client, mounted.mountPoint, started);
  process.exit(128 + constants.signals[signal]);
}

const OPTION_FLAGS = {
  readahead: (value) => (value ? '' : '--no-readahead'),
  prefetch: (value) => (value ? '' : '--no-prefetch'),
  fill: (value) => (value ? '--fill' : ''),
  paranoid: (value) => (value ? '--paranoid' : ''),
  plane: (value) => `--plane ${value}`,
  plainHttp: (value) => (value ? '--plain-http' : ''),
  readTimeout: (value) => `--read-timeout ${value}`,
  storage: (value) => (value === undefined ? '' : storageFlags(value)),
} satisfies { [K in keyof Required<ImageOptions>]: (value: ImageOptions[K]) => string };

/** The options that hold here because the image was mounted with them already: all places of an image share them. */
function inherited(mounted: MountInfoReply, asked: Partial<ImageOptions>, defaults: ImageOptions): string {
  const names = Object.keys(OPTION_FLAGS) as (keyof ImageOptions)[];
  return names
    .filter((name) => asked[name] === undefined && mounted.options[name] !== defaults[name])
    .map((name) => (OPTION_FLAGS[name] as (value: unknown) => string)(mounted.options[name]))
    .join(' ');
}

async function print(mounted: MountInfoReply, flags: Flags): Promise<void> {
  printPath(mounted, flags.json === true, mounted.mountPoint);
  const also = inherited(mounted, imageOptions(flags), DEFAULT_IMAGE_OPTIONS);
  if (also !== '') printNote('note', `the image is mounted already with ${also}, which also applies here`);
  if (flags.verbose) printNote(null, `${mounted.reference} from ${mounted.archivePath}`);
}

export function registerMount(program: Command): void {
  const command = program
    .command('mount')
    .description('mount an image; prints the mount point once it answers')
    .addArgument(archiveOrImage())
    .addArgument(new Operand('dir', 'an existing directory (as --at)', ['at'], ['cid']))
    .argument('[command...]', "with --cid: the container's command (default: the image's)")
    .option('--at <dir>', 'an existing directory')
    .option('--cid <id>', 'a container: mount it with a writable layer at ROOT/ID/rootfs, and write a bundle')
    .option('--foreground', 'stay, and unmount on Ctrl-C')
    .option('--no-readahead', 'fetch the spans that are read and nothing else')
    .option(
      '--no-prefetch',
      "do not fetch by a profile, of the archive or of earlier starts, and by the archive's references between files",
    )
    .option('--fill', 'fetch the rest of the image while no reader waits')
    .option('--paranoid', 'check each cached span before each read of it')
    .option('--read-timeout <seconds>', 'after this a read that has no bytes fails (default 300)', seconds)
    .option('--suid', 'honour set-uid bits')
    .option('--dev', 'honour device nodes');
  const withImage = addImageFlags(command);
  const withContainer = addProcessFlags(addOverlayFlags(withImage, ', with --cid'), ', with --cid');
  addDaemonFlags(addStorageFlags(withContainer)).action(mount);
}
