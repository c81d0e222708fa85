import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Archive } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import { ArchiveFile } from '../check/index.js';
import { mountArchive } from '../client/index.js';
import { createFromOCIImage } from '../index/index.js';
import type { RecordedProfile } from '../lazy/index.js';
import { hostProgram } from './host-program.js';

export interface RecordRunOptions {
  readonly imageRef: string;
  readonly command: readonly string[];
  readonly credentials?: { username: string; password: string } | undefined;
  readonly plainHttp?: boolean | undefined;
  readonly platform?: string | undefined;
  readonly signal: AbortSignal;
}

/** A service does not end by itself. A mount records for this long, and the reads of that time are the service's start. */
const RUN_MS = 60_000;

/** The PATH of containers whose image sets none. */
const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/**
 * Indexes an image, mounts it with a private clipd and an empty cache, runs the command in a chroot of it, and returns the
 * profile of its reads. The command's output goes to stderr.
 * @throws ClipError PERMISSION without root; SYSTEM when the command fails
 */
export async function recordRun(options: RecordRunOptions): Promise<{ archive: Archive; profile: RecordedProfile }> {
  if (process.getuid?.() !== 0) {
    throw new ClipError('PERMISSION', 'only root can run a command in a chroot of an image', {
      hint: 'record a mount instead: clipctl mount, run it, clipctl profile stop DIR --out P, clipctl optimize --clip F --profile P',
    });
  }
  const { imageRef, credentials, plainHttp, platform, signal } = options;
  const directory = await mkdtemp(join(tmpdir(), 'clip-optimize-'));
  try {
    const archivePath = join(directory, 'plain.clip');
    await createFromOCIImage({ imageRef, outputPath: archivePath, credentials, plainHttp, platform, signal });
    const file = ArchiveFile.open(archivePath);
    const { archive } = file;
    file.close();
    const mountPoint = join(directory, 'rootfs');
    await mkdir(mountPoint);
    const mount = mountArchive({
      archivePath,
      mountPoint,
      cachePath: join(directory, 'cache'),
      ...(credentials === undefined ? {} : { credentials }),
      ...(plainHttp === undefined ? {} : { plainHttp }),
    });
    await mount.start();
    try {
      await runInside(mountPoint, archive, options);
      return { archive, profile: (await mount.profile()).profile };
    } finally {
      await mount.unmount({ mode: 'lazy' });
    }
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** Name=value pairs of the image's config. */
function environmentOf(archive: Archive): NodeJS.ProcessEnv {
  const { Env } = (archive.image.config.config ?? {}) as { Env?: unknown };
  const pairs = Array.isArray(Env) ? Env.filter((pair): pair is string => typeof pair === 'string') : [];
  const named = pairs.map((pair): [string, string] => {
    const equals = pair.indexOf('=');
    return equals < 0 ? [pair, ''] : [pair.slice(0, equals), pair.slice(equals + 1)];
  });
  return { PATH: DEFAULT_PATH, ...Object.fromEntries(named) };
}

async function runInside(root: string, archive: Archive, { command, signal }: RecordRunOptions): Promise<void> {
  const child = spawn(hostProgram('chroot'), [root, ...command], {
    env: environmentOf(archive),
    stdio: ['ignore', process.stderr.fd, process.stderr.fd],
    signal,
    timeout: RUN_MS,
    killSignal: 'SIGKILL',
  });
  const started = performance.now();
  const end = await new Promise<number | NodeJS.Signals>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code, by) => resolve(code ?? by ?? 0));
  });
  if (end === 0 || (end === 'SIGKILL' && performance.now() - started >= RUN_MS)) return;
  throw new ClipError('SYSTEM', `${command.join(' ')}: ended with ${end}, so its reads are no profile of a start`, {
    hint: 'the image is mounted read-only, without /proc and /dev: give a command that can run there',
  });
}
