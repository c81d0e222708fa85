import type { Command } from 'commander';
import { counted } from '../../bytes/index.js';
import type { ClipdClient } from '../../client/index.js';
import { type CachePruneReply, defaultCacheDir, resolvePlace } from '../../wire/index.js';
import type { CommonFlags } from '../common-flags.js';
import { askedCacheDir, locate } from '../daemon-flags.js';
import { byteSize } from '../numbers.js';
import { printResult } from '../output.js';
import { formatBytes } from '../units.js';

interface Flags extends CommonFlags {
  readonly to?: number;
  readonly mounted?: boolean;
}

interface Cache {
  readonly directory: string;
  /** The clipd that has it open; null: no process has, or one that takes no requests. */
  readonly clipd: ClipdClient | null;
}

/** The cache to work on: the directory of the flags, else that of the running clipd, else the default one. */
async function find(flags: Flags): Promise<Cache> {
  const { ClipdClient, NotRunningError } = await import('../../client/index.js');
  const asked = askedCacheDir(flags);
  const directory = asked ?? resolvePlace(flags.cacheDir ?? defaultCacheDir());
  const root = asked === undefined ? await rootOf(flags) : await ownerRoot(directory);
  if (root === undefined) return { directory, clipd: null };
  try {
    const clipd = new ClipdClient(root);
    const { cacheDir } = await clipd.health();
    if (asked === undefined) return { directory: cacheDir, clipd };
    return { directory, clipd: cacheDir === directory ? clipd : null };
  } catch (error) {
    if (error instanceof NotRunningError) return { directory, clipd: null };
    throw error;
  }
}

async function rootOf(flags: Flags): Promise<string | undefined> {
  const anonymous = process.getuid?.() !== 0 && !process.env.XDG_RUNTIME_DIR;
  // There is no default root, but a user without a place for sockets may still look at files.
  if (anonymous && flags.root === undefined) return undefined;
  return (await locate(flags)).root;
}

async function ownerRoot(directory: string): Promise<string | undefined> {
  const { readOwner } = await import('../../cache/index.js');
  return readOwner(directory)?.root;
}

async function list(flags: Flags): Promise<void> {
  const { directory, clipd } = await find(flags);
  const { listCache } = await import('../../cache/index.js');
  const files =
    clipd === null ? listCache(directory).map((file) => ({ ...file, mounted: false })) : await clipd.cachedLayers();
  printResult(files, flags.json === true, () =>
    files
      .map((file) => {
        const share = `${formatBytes(file.usedBytes)} of ${formatBytes(file.layerBytes)}`;
        const when = file.mounted ? 'mounted' : file.lastUse;
        return `${file.layer}\t${share}\t${file.spans} ${file.kind} spans (table ${file.table.slice(0, 12)})\t${when}`;
      })
      .join('\n'),
  );
}

async function stat(flags: Flags): Promise<void> {
  const { directory, clipd } = await find(flags);
  const { summarizeCache } = await import('../../cache/index.js');
  const running = clipd === null ? null : await clipd.cache();
  const summary = running ?? summarizeCache(directory);
  printResult(summary, flags.json === true, () => {
    const { owner } = summary;
    const user = owner === null ? 'no process' : `${owner.name} (pid ${owner.pid})`;
    const cap = running === null ? '' : ` of at most ${formatBytes(running.maxBytes)}`;
    const trouble = running === null || running.writable ? '' : '; its disk takes no writes';
    return `${summary.directory}: ${formatBytes(summary.usedBytes)}${cap} in ${counted(summary.files, 'layer file')}, in use by ${user}${trouble}`;
  });
}

async function prune(flags: Flags): Promise<void> {
  const { directory, clipd } = await find(flags);
  const to = flags.to ?? 0;
  const mounted = flags.mounted ?? false;
  const { createProgress, showBytes } = await import('../progress.js');
  const progress = await createProgress();
  const onBytes = showBytes(progress, directory, 'freeing');
  const result = await (clipd === null
    ? pruneDirectory(directory, to, onBytes)
    : inSteps((await clipd.cache()).usedBytes, to, onBytes, (step) => clipd.pruneCache({ to: step, mounted }))
  ).finally(() => progress.stop());
  printResult(result, flags.json === true, () => {
    const { freedBytes, usedBytes, sealedBytes } = result;
    const rest = usedBytes > to && !mounted ? ' in layers that are mounted (--mounted frees these as well)' : '';
    const sealed =
      sealedBytes > 0
        ? `; ${formatBytes(sealedBytes)} are layers that the kernel reads by itself while they are mounted`
        : '';
    return `freed ${formatBytes(freedBytes)}, ${formatBytes(usedBytes)} left${rest}${sealed}`;
  });
}

type OnBytes = (done: number, total: number) => void;

/** Freed at once: a file system takes a second for some ten times as much. */
const PRUNE_STEP = 1024 * 1024 * 1024;

/** Prunes down to `to` bit by bit, so that it can be told how far it is. */
async function inSteps(
  used: number,
  to: number,
  onBytes: OnBytes,
  prune: (to: number) => CachePruneReply | Promise<CachePruneReply>,
): Promise<CachePruneReply> {
  let freedBytes = 0;
  for (let step = Math.max(to, used - PRUNE_STEP); ; ) {
    const reply = await prune(step);
    freedBytes += reply.freedBytes;
    // What is left is that of mounts, or of clipd's readers: the last step finds out.
    const last = step === to;
    if (used > to) onBytes(freedBytes, last ? freedBytes : used - to);
    if (last) return { ...reply, freedBytes };
    step = reply.freedBytes === 0 ? to : Math.max(to, Math.min(step, reply.usedBytes) - PRUNE_STEP);
    await new Promise((resolve) => setTimeout(resolve)); // the terminal's turn
  }
}

/** For a directory that no process has open, so that none of its layers is mounted. */
async function pruneDirectory(directory: string, to: number, onBytes: OnBytes): Promise<CachePruneReply> {
  const { SpanCache } = await import('../../cache/index.js');
  const cache = await SpanCache.open(directory, { maxBytes: Number.MAX_SAFE_INTEGER, owner: 'clipctl cache prune' });
  try {
    return await inSteps(cache.usedBytes, to, onBytes, (step) => {
      return { freedBytes: cache.prune(step), usedBytes: cache.usedBytes, sealedBytes: 0 };
    });
  } finally {
    cache.close();
  }
}

async function verify(flags: Flags): Promise<void> {
  const { directory, clipd } = await find(flags);
  const { createProgress, showBytes } = await import('../progress.js');
  const progress = await createProgress();
  const onBytes = showBytes(progress, directory, 'checking');
  const result = await (clipd === null
    ? verifyDirectory(directory, onBytes)
    : clipd.verifyCache({ onProgress: onBytes })
  ).finally(() => progress.stop());
  printResult(result, flags.json === true, () =>
    result.files
      .map((f) => `${f.layer}\t${f.intact} spans intact, ${f.damaged} damaged and freed, ${f.absent} not cached`)
      .join('\n'),
  );
}

async function verifyDirectory(directory: string, onBytes: OnBytes) {
  const { verifyCache } = await import('../../cache/index.js');
  const files: Parameters<Parameters<typeof verifyCache>[1]>[0][] = [];
  await verifyCache(directory, (file) => files.push(file), onBytes);
  return { files, damaged: files.reduce((sum, file) => sum + file.damaged, 0) };
}

export function registerCache(program: Command): void {
  const cache = program.command('cache').description('list, prune or check the disk cache of inflated spans');
  const add = (name: string, description: string, action: (flags: Flags) => Promise<void>): Command =>
    cache.command(name).description(description).action(action);
  add('ls', 'list the cached layers, the last used first', list);
  add('stat', 'show the size of the cache and the process that has it open', stat);
  add('prune', 'free spans of layers that are not mounted, the longest unused first', prune)
    .option('--to <size>', 'keep up to this much (default: nothing)', byteSize)
    .option('--mounted', 'also free spans of mounted layers; they are fetched again when they are read');
  add('verify', 'check every cached span against its checksum and free the damaged ones', verify);
}
