import type { Command } from 'commander';
import { type DaemonSettings, defaultCacheDir, defaultRoot, type MountRequest, resolvePlace } from '../wire/index.js';
import type { CommonFlags } from './common-flags.js';
import { byteSize, workerCount } from './numbers.js';

/** The flags of a clipd: for `daemon`, and for `mount`, which may start one. */
export interface DaemonFlags extends CommonFlags {
  readonly cacheSize?: number;
  readonly workers?: number;
  readonly contentCache?: string;
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
  const asked = flags.cacheDir ?? (process.env.CLIP_CACHE_DIR || undefined);
  const askedCacheDir = asked === undefined ? undefined : resolvePlace(asked);
  return {
    root: resolvePlace(flags.root ?? (process.env.CLIP_ROOT || defaultRoot())),
    cacheDir: askedCacheDir ?? resolvePlace(defaultCacheDir()),
    askedCacheDir,
  };
}

/** Refuses a URL that clipd could not use, before a clipd is started. @throws ClipError USAGE */
export async function checkContentCache(flags: DaemonFlags): Promise<void> {
  const url = contentCacheUrl(flags);
  if (url !== undefined) (await import('../cache/index.js')).openContentCache(url);
}

export function contentCacheUrl(flags: DaemonFlags): string | undefined {
  return flags.contentCache ?? (process.env.CLIP_CONTENT_CACHE || undefined);
}

/** Settings that the user set explicitly. They conflict with different settings of a running clipd. */
export function askedOfDaemon(location: Location, flags: DaemonFlags): NonNullable<MountRequest['daemon']> {
  const contentCache = contentCacheUrl(flags);
  return {
    ...(location.askedCacheDir === undefined ? {} : { cacheDir: location.askedCacheDir }),
    ...(flags.cacheSize === undefined ? {} : { cacheSize: flags.cacheSize }),
    ...(flags.workers === undefined ? {} : { workers: flags.workers }),
    ...(contentCache === undefined ? {} : { contentCache }),
  };
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
