import { constants } from 'node:os';
import type { Command } from 'commander';
import { counted } from '../../bytes/index.js';
import type { IndexResult } from '../../index/index.js';
import { inlineLess } from '../../loader/index.js';
import { defaultArchive, refuseFile } from '../archive-or-image.js';
import type { CommonFlags } from '../common-flags.js';
import { sayingDockerHub } from '../docker-hub.js';
import { wholeNumber } from '../numbers.js';
import { Operand } from '../operand.js';
import { printNote, printResult } from '../output.js';
import { addRegistryFlags, credentialsFrom, type RegistryFlags } from '../registry-flags.js';

interface Flags extends RegistryFlags, CommonFlags {
  readonly image: string;
  readonly out?: string;
  readonly checkpoint?: number;
  readonly storageImage?: string;
  readonly platform?: string;
  readonly hashes?: boolean;
  readonly push?: boolean;
  readonly fresh?: boolean;
}

/** Runs `work` with a signal that Ctrl-C or SIGTERM aborts. After that, everything is cleaned up and the exit code is 128 + the signal's number. */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T | undefined> {
  const controller = new AbortController();
  let by: NodeJS.Signals = 'SIGINT';
  const stop = (name: NodeJS.Signals): void => {
    by = name;
    controller.abort();
  };
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, stop);
  try {
    return await work(controller.signal);
  } catch (error) {
    if (!controller.signal.aborted) throw error;
    process.stderr.write('clipctl: interrupted\n');
    process.exitCode = 128 + constants.signals[by];
    return undefined;
  } finally {
    for (const name of ['SIGINT', 'SIGTERM'] as const) process.removeListener(name, stop);
  }
}

/** Where indexes of layers are kept for all images of this user. */
export async function layerIndexDirectory(flags: CommonFlags): Promise<string> {
  const [{ layerIndexesOf }, { locate }] = await Promise.all([
    import('../../store/index.js'),
    import('../daemon-flags.js'),
  ]);
  return layerIndexesOf((await locate(flags)).cacheDir);
}

async function run(flags: Flags): Promise<void> {
  const credentials = credentialsFrom(flags);
  refuseFile(flags.image);
  const outputPath = flags.out ?? defaultArchive(flags.image);
  const layerIndexes = await layerIndexDirectory(flags);
  const [{ indexImage }, { createProgress }, { showIndexing }] = await Promise.all([
    import('../../index/index.js'),
    import('../progress.js'),
    import('../index-progress.js'),
  ]);
  const progress = await createProgress();
  const show = showIndexing(progress);
  let begun = false;
  try {
    const index = (signal: AbortSignal): Promise<IndexResult> =>
      indexImage(
        {
          imageRef: flags.image,
          outputPath,
          checkpointMiB: flags.checkpoint,
          storageImageRef: flags.storageImage,
          platform: flags.platform,
          credentials,
          plainHttp: flags.plainHttp,
          hashes: flags.hashes,
          layerIndexDirectory: layerIndexes,
          registryLayerIndexes: true,
          signal,
          onProgress: (state) => {
            if (!begun && state.done > 0) {
              begun = true;
              inlineLess();
            }
            show(state);
          },
          onWarning: (warning) => printNote('warning', warning),
        },
        { fresh: flags.fresh === true },
      ).finally(() => progress.stop());
    const result = await interruptible((signal) => sayingDockerHub(flags.image, () => index(signal)));
    if (result === undefined) return;
    if (flags.push !== true) {
      await report(result, flags);
      return;
    }
    const { printPushed, pushArchive } = await import('../push-archive.js');
    const options = {
      ...(credentials === undefined ? {} : { credentials }),
      ...(flags.plainHttp === undefined ? {} : { plainHttp: flags.plainHttp }),
    };
    const pushed = await interruptible((signal) =>
      pushArchive(outputPath, undefined, options, signal, { layerIndexDirectory: layerIndexes }),
    );
    if (pushed === undefined) return;
    await report(result, flags, { pushed });
    if (flags.json !== true) process.stdout.write(`${printPushed(pushed)}\n`);
  } finally {
    progress.stop();
  }
}

async function report(result: IndexResult, flags: Flags, more: object = {}): Promise<void> {
  const { formatBytes, formatSeconds, formatTable, shortDigest } = await import('../units.js');
  const { image, ...rest } = result;
  const value = {
    reference: image.reference,
    manifestDigest: image.manifestDigest,
    platform: image.platform,
    ...rest,
    ...more,
  };
  printResult(value, flags.json === true, () => {
    const share =
      result.compressedSize === 0 ? '' : ` (${((100 * result.size) / result.compressedSize).toFixed(2)} % of it)`;
    const known = result.layers.filter((layer) => layer.known).length;
    const count = counted(image.layers.length, 'layer');
    const layers = known === 0 ? count : `${count} (${known} known, not read)`;
    const lines = [
      `${result.outputPath}: ${formatBytes(result.size)} for ${image.reference}`,
      `${layers}, ${formatBytes(result.compressedSize)} compressed${share}, ${counted(result.inodes, 'file')}, in ${formatSeconds(result.milliseconds / 1000)}`,
    ];
    const table = formatTable(
      result.layers.map((layer, i) => [
        `  ${shortDigest(layer.digest)}`,
        layer.kind,
        formatBytes(image.layers[i]!.size),
        `${counted(layer.spans, 'span')}`,
        `${formatBytes(layer.windowBytes)} windows`,
      ]),
      [2, 3, 4],
    );
    return `${lines.join('\n')}\n${flags.verbose === true ? table : ''}`;
  });
}

export function registerIndex(program: Command): void {
  const command = program
    .command('index')
    .description('index an image: write the .clip archive that mounts need')
    .addArgument(new Operand('image', 'the image (as --image)', ['image']))
    .requiredOption(
      '--image <ref>',
      'image in a registry, or on this disk: oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME]',
    )
    .option('-o, --out <file>', 'the archive to write (default: NAME.clip, by the name of the image)')
    .option('--checkpoint <MiB>', 'uncompressed MiB between checkpoints, 1 to 64 (default 1)', wholeNumber)
    .option('--storage-image <ref>', 'where mounts fetch the layers, if not from --image')
    .option('--platform <os/arch>', "platform of a multi-platform image (default: this machine's)")
    .option('--hashes', 'record the SHA-256 of every file, and check diff IDs')
    .option('--fresh', 'read every layer, whatever this machine or the registry knows of it')
    .option('--push', 'store the archive beside the image in its registry, too');
  addRegistryFlags(command).action((flags: Flags) => run(flags));
}
