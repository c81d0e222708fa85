import type { Command } from 'commander';
import { ClipError, counted, printable } from '../../bytes/index.js';
import type { ConnectionStats, Stats } from '../../wire/index.js';
import type { CommonFlags } from '../common-flags.js';
import { locate } from '../daemon-flags.js';
import { mountedPlace } from '../mounted-place.js';
import { printResult } from '../output.js';
import { formatBytes, formatTable } from '../units.js';
import { describePrefetch } from './prefetch.js';

interface Flags extends CommonFlags {
  readonly watch?: boolean;
}

const WATCH_MS = 1000;
/** The table's other columns take the rest of 80. */
const IMAGE_WIDTH = 30;

/** Keeps the end of a long name, where names differ. */
function shortened(text: string, width: number): string {
  const shown = printable(text);
  return shown.length <= width ? shown : `…${shown.slice(shown.length - width + 1)}`;
}

const percent = (part: number, whole: number): string => (whole === 0 ? '–' : `${((100 * part) / whole).toFixed(0)} %`);

function milliseconds(value: number | null): string {
  if (value === null) return '–';
  return value < 1000 ? `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms` : `${(value / 1000).toFixed(1)} s`;
}

function imageRow({
  reference,
  fetchedBytes,
  imageBytes,
  touchedBytes,
  tarBytes,
  hits,
  reads,
  waits,
}: ConnectionStats): string[] {
  return [
    shortened(reference, IMAGE_WIDTH),
    formatBytes(fetchedBytes),
    percent(fetchedBytes, imageBytes),
    percent(touchedBytes, tarBytes),
    percent(hits, hits + (reads.reads ?? 0)),
    milliseconds(waits.p50),
    milliseconds(waits.p99),
  ];
}

/** The names of slow files are in the archive, which may have been removed or replaced since it was mounted. */
async function slowFiles(stats: Stats, mounts: ReadonlyMap<number, string>): Promise<Map<number, string[]>> {
  const lines = new Map<number, string[]>();
  const { FilePaths } = await import('../../archives/index.js');
  for (const { id, identity, slowest } of stats.connections) {
    const archivePath = mounts.get(id);
    if (slowest.length === 0 || archivePath === undefined) continue;
    let paths: { path(nid: number): string | null } | null = null;
    try {
      const opened = FilePaths.open(archivePath);
      if (opened.identity === identity) paths = opened;
    } catch {
      // numbers will do
    }
    lines.set(
      id,
      slowest.map(({ nid, reads, milliseconds: waited }) => {
        const name = paths?.path(nid) ?? `inode ${nid}`;
        return `  ${milliseconds(waited).padStart(7)} in ${String(reads).padStart(4)} ${reads === 1 ? 'read ' : 'reads'}  ${shortened(name, 52)}`;
      }),
    );
  }
  return lines;
}

/** Figures that are 0 while all is well. */
const TROUBLE = [
  'missErrors',
  'missTimedOut',
  'failedSpans',
  'digestMismatches',
  'badContent',
  'spansDamaged',
  'contentPoisoned',
  'contentErrors',
  'contentTimeouts',
  'cacheWriteErrors',
  'cacheReadErrors',
  'failovers',
  'rivalFetches',
  'inflateWorkerCrashes',
] as const;

function summary({ health, counters, cache, memory }: Stats): string[] {
  const { serverPss, keeperPss, standbyPss, clientPss } = memory;
  const all = serverPss + keeperPss + standbyPss + clientPss;
  const count = (name: string): number => counters[name] ?? 0;
  const bytes = (name: string): string => formatBytes(count(name));
  const trouble = TROUBLE.filter((name) => count(name) > 0).map((name) => `${name} ${count(name)}`);
  return [
    `clipd ${health.version}, up ${Math.round(health.uptime)} s, ${health.restarts} restarts`,
    `memory: ${formatBytes(all)} (server ${formatBytes(serverPss)}, keeper ${formatBytes(keeperPss)}, reserve ${formatBytes(standbyPss + clientPss)})`,
    `fetched: ${bytes('demandBytes')} for readers, ${bytes('readaheadBytes')} ahead, ${bytes('prefetchBytes')} prefetched, ${bytes('fillBytes')} filled`,
    `speculated: ${bytes('speculatedBytes')}, ${bytes('speculatedUsefulBytes')} of it useful, ${bytes('speculatedWastedBytes')} wasted`,
    `cache: ${formatBytes(Number(cache.usedBytes))} of ${formatBytes(Number(cache.maxBytes))}; ${counted(count('requests'), 'request')}, ${count('readsInFlight')} reads wait`,
    ...(trouble.length === 0 ? [] : [`trouble: ${trouble.join(', ')}`]),
  ];
}

async function textOf(stats: Stats, mounts: ReadonlyMap<number, string>, verbose: boolean): Promise<string> {
  const lines = summary(stats);
  if (stats.connections.length > 0) {
    const head = ['image', 'fetched', 'of it', 'touched', 'hits', 'p50', 'p99'];
    lines.push('', formatTable([head, ...stats.connections.map(imageRow)], [1, 2, 3, 4, 5, 6]).trimEnd());
  }
  const slow = await slowFiles(stats, mounts);
  for (const { id, reference, plane, prefetches } of stats.connections) {
    if (plane.kind !== 'fuse' || plane.reason !== 'as set')
      lines.push(`plane of ${shortened(reference, 30)}: ${plane.kind}: ${printable(plane.reason)}`);
    const files = slow.get(id) ?? [];
    if (files.length > 0) lines.push('', `waited longest in ${shortened(reference, 60)}:`, ...files);
    for (const one of prefetches) lines.push(`prefetch of ${shortened(reference, 30)}: ${describePrefetch(one)}`);
  }
  if (verbose) {
    lines.push('');
    for (const [group, numbers] of [
      ['fuse', stats.fuse],
      ['counters', stats.counters],
    ] as const) {
      for (const [name, number] of Object.entries(numbers)) lines.push(`${group}.${name}\t${number}`);
    }
  }
  return `${lines.join('\n')}\n`;
}

async function stats(target: string | undefined, flags: Flags): Promise<void> {
  const { ClipdClient } = await import('../../client/index.js');
  const client = new ClipdClient((await locate(flags)).root);
  const place = target === undefined ? null : await mountedPlace(target, flags);
  const read = async (): Promise<{ value: Stats; text: string }> => {
    const [all, mounts] = await Promise.all([client.stats(), client.mounts()]);
    const connections = all.connections.filter(({ places }) => place === null || places.includes(place));
    if (place !== null && connections.length === 0) {
      throw new ClipError('NOT_FOUND', `${target} is not a clip mount of this clipd`, {
        hint: 'clipctl ps lists them',
      });
    }
    const value = { ...all, connections };
    const archives = new Map(mounts.map(({ connection, archivePath }) => [connection as number, archivePath]));
    return { value, text: flags.json === true ? '' : await textOf(value, archives, flags.verbose === true) };
  };
  const first = await read();
  if (flags.watch !== true) return printResult(first.value, flags.json === true, () => first.text);
  let stop = (): void => {};
  const stopped = new Promise<void>((resolve) => {
    stop = resolve;
  });
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, stop);
  let ended = false;
  void stopped.then(() => {
    ended = true;
  });
  for (let next = first; ; next = await read()) {
    // To the top left, and away with what is below: one write a round, so that nothing flickers.
    if (flags.json === true) process.stdout.write(`${JSON.stringify(next.value)}\n`);
    else process.stdout.write(process.stdout.isTTY ? `\x1b[H\x1b[J${next.text}` : `${next.text}\n`);
    await Promise.race([stopped, new Promise((resolve) => setTimeout(resolve, WATCH_MS))]);
    if (ended) return;
  }
}

export function registerStats(program: Command): void {
  program
    .command('stats')
    .argument('[dir|id]', 'a mount point or a container; default: all')
    .description('show how much clipd has fetched and served')
    .option('--watch', 'again each second, until Ctrl-C; with --json a line each')
    .action(stats);
}
