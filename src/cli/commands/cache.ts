import type { Command } from 'commander';
import { byteSize } from '../daemon-flags.js';
import { printResult } from '../output.js';

interface Flags {
  readonly cacheDir?: string;
  readonly json?: boolean;
  readonly to?: number;
}

async function directory(flags: Flags): Promise<string> {
  const given = flags.cacheDir ?? process.env.CLIP_CACHE_DIR;
  if (given) return given;
  const { defaultCacheDir } = await import('../../daemon/index.js');
  return defaultCacheDir();
}

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;

async function list(flags: Flags): Promise<void> {
  const { listCache } = await import('../../cache/index.js');
  const files = listCache(await directory(flags));
  printResult(files, flags.json === true, () =>
    files
      .map((file) => {
        const share = `${megabytes(file.usedBytes)} of ${megabytes(file.layerBytes)}`;
        return `${file.layer}\t${share}\t${file.spans} ${file.kind} spans (table ${file.table.slice(0, 12)})\t${file.lastUse}`;
      })
      .join('\n'),
  );
}

async function stat(flags: Flags): Promise<void> {
  const { summarizeCache } = await import('../../cache/index.js');
  const summary = summarizeCache(await directory(flags));
  printResult(summary, flags.json === true, () => {
    const { owner } = summary;
    const who = owner === null ? 'nobody' : `${owner.name} (pid ${owner.pid})`;
    return `${summary.directory}: ${megabytes(summary.usedBytes)} in ${summary.files} layer files, in use by ${who}`;
  });
}

async function prune(flags: Flags): Promise<void> {
  const { SpanCache } = await import('../../cache/index.js');
  const cache = await SpanCache.open(await directory(flags), {
    maxBytes: Number.MAX_SAFE_INTEGER,
    owner: 'clipctl cache prune',
  });
  try {
    const freedBytes = cache.prune(flags.to ?? 0);
    const result = { freedBytes, usedBytes: cache.usedBytes };
    printResult(
      result,
      flags.json === true,
      () => `freed ${megabytes(freedBytes)}, ${megabytes(result.usedBytes)} left`,
    );
  } finally {
    cache.close();
  }
}

async function verify(flags: Flags): Promise<void> {
  const { verifyCache } = await import('../../cache/index.js');
  const files: Parameters<Parameters<typeof verifyCache>[1]>[0][] = [];
  verifyCache(await directory(flags), (file) => files.push(file));
  const damaged = files.reduce((sum, file) => sum + file.damaged, 0);
  printResult({ files, damaged }, flags.json === true, () =>
    files
      .map((f) => `${f.layer}\t${f.intact} spans intact, ${f.damaged} damaged and freed, ${f.absent} not cached`)
      .join('\n'),
  );
}

export function registerCache(program: Command): void {
  const cache = program.command('cache').description('the disk cache of inflated spans');
  const add = (name: string, description: string, action: (flags: Flags) => Promise<void>): Command =>
    cache
      .command(name)
      .description(description)
      .option('--cache-dir <dir>', 'the cache (default: CLIP_CACHE_DIR, or clipd’s own)')
      .option('--json', 'print JSON')
      .option('--verbose', 'show the causes of errors')
      .action(action);
  add('ls', 'list the cached layers, the last used first', list);
  add('stat', 'how much there is, and who has it open', stat);
  add('prune', 'free what nobody has mounted, the longest unused first', prune).option(
    '--to <size>',
    'keep up to this much (default: nothing)',
    byteSize,
  );
  add('verify', 'check every cached span against its checksum and free what is damaged', verify);
}
