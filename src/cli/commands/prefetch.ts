import type { Command } from 'commander';
import { ClipError, counted, printable } from '../../bytes/index.js';
import type { ClipdClient } from '../../client/index.js';
import { type PrefetchReply, resolvePlace } from '../../wire/index.js';
import type { CommonFlags } from '../common-flags.js';
import { locate } from '../daemon-flags.js';
import { byteRate } from '../numbers.js';
import { printFailedResult, printResult } from '../output.js';
import { formatBytes } from '../units.js';
import { interruptible } from './index-command.js';

interface Flags extends CommonFlags {
  readonly profile?: boolean;
  readonly rate?: number;
  readonly wait?: boolean;
  readonly status?: boolean;
  readonly cancel?: boolean;
}

/** One line: state, progress, what is fetched. */
export function describePrefetch({
  what,
  paths,
  state,
  reason,
  spans,
  bytes,
}: Omit<PrefetchReply, 'mountPoint'>): string {
  const of = what === 'paths' ? printable((paths ?? []).join(' ')) : what === 'profile' ? 'the profile' : 'the image';
  const why = reason === undefined ? '' : `: ${reason}`;
  const amount =
    spans.total === 0
      ? 'nothing left to fetch'
      : `${formatBytes(bytes.done)} of ${formatBytes(bytes.total)}, ${spans.done} of ${counted(spans.total, 'span')}`;
  return `${state}\t${amount}\t${of}${why}`;
}

function print(states: readonly PrefetchReply[], flags: Flags): void {
  printResult(states, flags.json === true, () => states.map(describePrefetch).join('\n'));
}

function exclusive(paths: readonly string[], flags: Flags): void {
  const given = [
    ...(['status', 'cancel', 'profile'] as const).filter((name) => flags[name] === true).map((name) => `--${name}`),
    ...(flags.rate === undefined ? [] : ['--rate']),
    ...(paths.length === 0 ? [] : ['PATH']),
  ];
  if (given.length > 1) throw new ClipError('USAGE', `${given.join(' and ')} exclude each other`);
  if (flags.wait === true && (flags.status === true || flags.cancel === true)) {
    throw new ClipError('USAGE', `--wait and ${given[0]} exclude each other`);
  }
}

async function wait(
  client: ClipdClient,
  request: Parameters<ClipdClient['prefetch']>[0],
  begun: PrefetchReply,
  signal: AbortSignal,
): Promise<PrefetchReply> {
  const { createProgress } = await import('../progress.js');
  const progress = await createProgress();
  const started = performance.now();
  const onProgress = ({ mountPoint, bytes }: PrefetchReply): void => {
    const rate = bytes.done / Math.max(0.001, (performance.now() - started) / 1000);
    progress.update('prefetch', mountPoint, bytes.done, bytes.total, rate);
  };
  return client.waitPrefetched(request, begun, { onProgress, signal }).finally(() => progress.stop());
}

async function prefetch(place: string, paths: readonly string[], flags: Flags): Promise<void> {
  exclusive(paths, flags);
  const { ClipdClient } = await import('../../client/index.js');
  const client = new ClipdClient((await locate(flags)).root);
  const mountPoint = resolvePlace(place);
  if (flags.status) return print(await client.prefetches(mountPoint), flags);
  if (flags.cancel) return print(await client.cancelPrefetch({ mountPoint }), flags);
  const request = {
    mountPoint,
    ...(flags.profile === true ? { profile: true as const } : {}),
    ...(paths.length === 0 ? {} : { paths }),
    ...(flags.rate === undefined ? {} : { bytesPerSecond: flags.rate }),
  };
  const begun = await client.prefetch(request);
  const state = flags.wait ? await interruptible((signal) => wait(client, request, begun, signal)) : begun;
  if (state === undefined) return;
  if (!flags.wait || state.state === 'done') {
    printResult(state, flags.json === true, () => describePrefetch(state));
    return;
  }
  const error = new ClipError('SYSTEM', `not everything was fetched at ${mountPoint}: ${state.reason ?? state.state}`, {
    hint: 'missing parts are fetched when they are read',
  });
  printFailedResult(state, error, flags.json === true, () => describePrefetch(state));
  throw error;
}

export function registerPrefetch(program: Command): void {
  const command = program
    .command('prefetch')
    .description('fetch the parts that are not cached yet: the whole image of a mount, or files of it')
    .argument('<dir>', 'the mount point')
    .argument(
      '[path...]',
      'files of the image, directories with everything below them, or globs (quoted): /usr/lib /app/**/*.so',
    )
    .option(
      '--profile',
      "fetch the spans of the profile that the mount has begun with, of earlier starts or the archive's",
    )
    .option('--rate <size>', 'for the whole image: bytes per second at most (default: as fast as possible)', byteRate)
    .option(
      '--wait',
      'stay until everything is fetched, and show the progress; exit code 1 if something could not be fetched',
    )
    .option('--status', 'show the progress of the prefetches of this mount')
    .option('--cancel', 'cancel those that this command has started; what mount --fill fetches goes on');
  command.action(prefetch);
}
