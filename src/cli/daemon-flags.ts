import { type Command, InvalidArgumentError } from 'commander';
import type { DaemonSettings } from '../mount/index.js';
import type { CommonFlags } from './common-flags.js';

/** The flags that say how a clipd runs: for `daemon`, and for `mount`, which may start one. */
export interface DaemonFlags extends CommonFlags {
  readonly cacheSize?: number;
  readonly workers?: number;
  readonly contentCache?: string;
}

const UNITS: Readonly<Record<string, number>> = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

/** "20G" → bytes. */
export function byteSize(text: string): number {
  const match = /^(\d{1,12}(?:\.\d+)?)([kmgt]?)(?:i?b)?$/i.exec(text);
  if (match === null) throw new InvalidArgumentError('a size such as 500M or 20G expected');
  return Math.floor(Number(match[1]) * UNITS[match[2]!.toLowerCase()]!);
}

export function workerCount(text: string): number {
  const value = Number(text);
  if (!/^[1-9]\d?$/.test(text) || value > 64) throw new InvalidArgumentError('a whole number from 1 to 64 expected');
  return value;
}

export function seconds(text: string): number {
  const value = Number(text);
  if (!/^\d{1,6}(\.\d+)?$/.test(text) || value < 0.001 || value > 86_400)
    throw new InvalidArgumentError('seconds from 0.001 to 86400 (a day) expected');
  return value;
}

export function addDaemonFlags(command: Command): Command {
  return command
    .option('--cache-size <size>', 'cap of the span cache, 20G (default: 20 GB or 20 % of the disk)', byteSize)
    .option(
      '--content-cache <url>',
      'a cache shared with other machines: redis://HOST:PORT, s3://BUCKET/PREFIX, dir:/PATH (default $CLIP_CONTENT_CACHE)',
    )
    .option('--workers <n>', 'FUSE threads (default: one per core, at most 4)', workerCount);
}

export interface Location {
  readonly root: string;
  readonly cacheDir: string;
  /** The cache directory the user asked for, if any. */
  readonly askedCacheDir: string | undefined;
}

/** Flag, environment, default: in this order. */
export async function locate(flags: CommonFlags): Promise<Location> {
  const { defaultCacheDir, defaultRoot, resolvePlace } = await import('../daemon/index.js');
  const asked = flags.cacheDir ?? (process.env.CLIP_CACHE_DIR || undefined);
  const askedCacheDir = asked === undefined ? undefined : resolvePlace(asked);
  return {
    root: resolvePlace(flags.root ?? (process.env.CLIP_ROOT || defaultRoot())),
    cacheDir: askedCacheDir ?? resolvePlace(defaultCacheDir()),
    askedCacheDir,
  };
}

/** Refuses a URL that clipd could not use, before there is a clipd. @throws ClipError USAGE */
export async function checkContentCache(flags: DaemonFlags): Promise<void> {
  const url = contentCacheUrl(flags);
  if (url !== undefined) (await import('../cache/index.js')).openContentCache(url);
}

export function contentCacheUrl(flags: DaemonFlags): string | undefined {
  return flags.contentCache ?? (process.env.CLIP_CONTENT_CACHE || undefined);
}

export function daemonSettings(location: Location, flags: DaemonFlags): DaemonSettings {
  return {
    root: location.root,
    cacheDir: location.cacheDir,
    ...(flags.cacheSize === undefined ? {} : { cacheSize: flags.cacheSize }),
    ...(flags.workers === undefined ? {} : { workers: flags.workers }),
    ...(contentCacheUrl(flags) === undefined ? {} : { contentCache: contentCacheUrl(flags)! }),
    ...(flags.verbose === true ? { verbose: true } : {}),
  };
}
