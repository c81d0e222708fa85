import type { Command } from 'commander';
import { type DaemonSettings, defaultCacheDir, defaultRoot, type MountRequest, resolvePlace } from '../wire/index.js';
import { type CommonFlags, grouped } from './common-flags.js';
import { byteSize, workerCount } from './numbers.js';
import { logLevelOf } from './output.js';
import { originOf } from './settings.js';

/** The flags of a clipd: for `daemon`, and for `mount`, which may start one. */
export interface DaemonFlags extends CommonFlags {
  readonly cacheSize?: number;
  readonly workers?: number;
  readonly contentCache?: string;
  readonly profileSharing?: boolean;
}

export function addDaemonFlags(command: Command, heading = 'If this command starts clipd:'): Command {
  return grouped(command, heading, (group) =>
    group
      .option('--cache-size <size>', 'cap of the span cache, 20G (default: 20 GB or 20 % of the disk)', byteSize)
      .option(
        '--content-cache <url>',
        'a cache shared with other machines: redis://HOST:PORT, s3://BUCKET/PREFIX, dir:/PATH (default $CLIP_CONTENT_CACHE)',
      )
      .option(
        '--no-profile-sharing',
        'neither publish in the content cache what starts read, nor prefetch by what others have published there or in the registry',
      )
      .option('--workers <n>', 'FUSE threads (default: one per core, at most 4)', workerCount),
  );
}

export interface Location {
  readonly root: string;
  readonly cacheDir: string;
  /** The cache directory the user asked for, if any: one of a configuration file is a default. */
  readonly askedCacheDir: string | undefined;
}

export async function locate(flags: CommonFlags): Promise<Location> {
  return {
    root: resolvePlace(flags.root ?? defaultRoot()),
    cacheDir: resolvePlace(flags.cacheDir ?? defaultCacheDir()),
    askedCacheDir: askedCacheDir(flags),
  };
}

export function askedCacheDir(flags: CommonFlags): string | undefined {
  const directory = asked(flags, 'cacheDir');
  return directory === undefined ? undefined : resolvePlace(directory);
}

/** The value of a flag that the user gave for this command, by its words or its environment. */
function asked<F extends object, K extends keyof F & string>(flags: F, name: K): F[K] | undefined {
  return originOf(name)?.source === 'config' ? undefined : flags[name];
}

/** Refuses a URL that clipd could not use, before a clipd is started. @throws ClipError USAGE */
export async function checkContentCache(flags: DaemonFlags): Promise<void> {
  const url = flags.contentCache;
  if (url !== undefined) (await import('../cache/index.js')).openContentCache(url);
}

/**
 * Settings that the user set explicitly. They conflict with different settings of a running clipd, which those of a configuration file do
 * not: it may have changed since clipd was started.
 */
export function askedOfDaemon(location: Location, flags: DaemonFlags): NonNullable<MountRequest['daemon']> {
  const cacheSize = asked(flags, 'cacheSize');
  const workers = asked(flags, 'workers');
  const contentCache = asked(flags, 'contentCache');
  return {
    ...(location.askedCacheDir === undefined ? {} : { cacheDir: location.askedCacheDir }),
    ...(cacheSize === undefined ? {} : { cacheSize }),
    ...(workers === undefined ? {} : { workers }),
    ...(contentCache === undefined ? {} : { contentCache }),
    ...(asked(flags, 'profileSharing') === false ? { profileSharing: false } : {}),
  };
}

export function daemonSettings(location: Location, flags: DaemonFlags): DaemonSettings {
  return {
    root: location.root,
    cacheDir: location.cacheDir,
    ...(flags.cacheSize === undefined ? {} : { cacheSize: flags.cacheSize }),
    ...(flags.workers === undefined ? {} : { workers: flags.workers }),
    ...(flags.contentCache === undefined ? {} : { contentCache: flags.contentCache }),
    ...(flags.profileSharing === false ? { profileSharing: false } : {}),
    logLevel: logLevelOf(flags),
  };
}
