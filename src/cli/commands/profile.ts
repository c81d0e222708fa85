import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { ClipError, printable } from '../../bytes/index.js';
import { resolvePlace } from '../../wire/index.js';
import type { CommonFlags } from '../common-flags.js';
import { locate } from '../daemon-flags.js';
import { printResult } from '../output.js';
import { formatBytes } from '../units.js';

interface StopFlags extends CommonFlags {
  readonly out?: string;
}

async function stop(place: string, flags: StopFlags): Promise<void> {
  const { ClipdClient } = await import('../../client/index.js');
  const client = new ClipdClient((await locate(flags)).root);
  const { mountPoint, path, profile } = await client.stopProfile(resolvePlace(place));
  if (profile.ranges.length === 0) {
    throw new ClipError('NOT_FOUND', `nothing was read at ${mountPoint}, so there is no profile`, {
      hint: 'run the program that you want to record, then stop the recording',
    });
  }
  const kept = flags.out ?? path;
  if (flags.out !== undefined) save(flags.out, `${JSON.stringify(profile)}\n`);
  const value = { mountPoint, path: kept, manifestDigest: profile.manifestDigest, ...summary(profile.ranges) };
  printResult(value, flags.json === true, () => kept);
}

function save(path: string, text: string): void {
  try {
    writeFileSync(path, text);
  } catch (cause) {
    throw new ClipError('SYSTEM', `cannot write profile ${path}: ${(cause as NodeJS.ErrnoException).code}`, { cause });
  }
}

function summary(ranges: readonly { start: number; end: number }[]): { ranges: number; touchedBytes: number } {
  return { ranges: ranges.length, touchedBytes: ranges.reduce((sum, range) => sum + range.end - range.start, 0) };
}

async function list(flags: CommonFlags): Promise<void> {
  const { parseProfile, profilesDirectory } = await import('../../lazy/index.js');
  const directory = profilesDirectory((await locate(flags)).cacheDir);
  let names: string[] = [];
  try {
    names = readdirSync(directory).filter((name) => name.endsWith('.json'));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  const profiles = names.sort().map((name) => {
    const path = join(directory, name);
    const { manifestDigest, ranges, starts = 1 } = parseProfile(readFileSync(path, 'utf8'), path);
    return { path, manifestDigest, starts: Math.round(starts), ...summary(ranges) };
  });
  printResult(profiles, flags.json === true, () =>
    profiles
      .map((p) => {
        const starts = p.starts === 1 ? '1 start' : `${p.starts} starts`;
        return `${printable(p.path)}\t${p.manifestDigest}\t${starts}\t${formatBytes(p.touchedBytes)} in ${p.ranges} ranges`;
      })
      .join('\n'),
  );
}

export function registerProfile(program: Command): void {
  const profile = program
    .command('profile')
    .description('the first reads of a mount, recorded for 60 s from the first one on');
  profile
    .command('stop')
    .description('end the recording of a mount; prints the path of its profile')
    .argument('<dir>', 'the mount point')
    .option('-o, --out <file>', 'also write the profile here')
    .action(stop);
  profile.command('ls').description('list the profiles that were kept, one per image and command').action(list);
}
