import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Archive } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import { ArchiveFile } from '../check/index.js';
import { ClipdClient, mountArchive } from '../client/index.js';
import { DEFAULT_PATH, findProgram, findRuntime, runInContainer } from '../container/index.js';
import { createFromOCIImage, type LayerProgress } from '../index/index.js';
import type { RecordedProfile } from '../lazy/index.js';

export interface RecordRunOptions {
  readonly imageRef: string;
  readonly command: readonly string[];
  readonly credentials?: { username: string; password: string } | undefined;
  readonly plainHttp?: boolean | undefined;
  readonly platform?: string | undefined;
  /** Run it as root in a bare chroot of the image, where it has all rights of root on this machine. */
  readonly unsafeChroot?: boolean | undefined;
  /** The network that the command has. Default: none. */
  readonly net?: 'host' | 'none' | undefined;
  readonly signal: AbortSignal;
  readonly onProgress?: ((progress: LayerProgress) => void) | undefined;
  /** The image is indexed: the command is run now, and has the terminal. */
  readonly onIndexed?: (() => void) | undefined;
}

/** A service does not end by itself. A mount records for this long, and the reads of that time are the service's start. */
const RUN_MS = 60_000;

interface Recorded {
  readonly archive: Archive;
  readonly profile: RecordedProfile;
}

/**
 * Indexes an image, runs the command in a container of it, with a clipd and an empty cache of its own, and returns the profile of
 * its reads. The command's output goes to stderr.
 * @throws ClipError UNSUPPORTED without a runtime; SYSTEM when the command fails
 */
export async function recordRun(options: RecordRunOptions): Promise<Recorded> {
  const { imageRef, credentials, plainHttp, platform, signal, onProgress } = options;
  if (options.unsafeChroot !== true) findRecordRuntime();
  const directory = await mkdtemp(join(tmpdir(), 'clip-optimize-'));
  try {
    const archivePath = join(directory, 'plain.clip');
    await createFromOCIImage({
      imageRef,
      outputPath: archivePath,
      credentials,
      plainHttp,
      platform,
      signal,
      onProgress,
    });
    options.onIndexed?.();
    const file = ArchiveFile.open(archivePath);
    const { archive } = file;
    file.close();
    const run = options.unsafeChroot === true ? recordInChroot : recordInContainer;
    return { archive, profile: await run(directory, archive, archivePath, options) };
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** Before an image is indexed in vain. */
function findRecordRuntime(): void {
  try {
    findRuntime();
  } catch (cause) {
    throw new ClipError('UNSUPPORTED', (cause as Error).message, {
      cause,
      hint: 'install the package runc or crun; or record a mount: clipctl profile stop; or trust the image with this machine: --unsafe-chroot',
    });
  }
}

async function recordInContainer(
  directory: string,
  _archive: Archive,
  archivePath: string,
  { command, credentials, plainHttp, net, signal }: RecordRunOptions,
): Promise<RecordedProfile> {
  const root = join(directory, 'root');
  const client = new ClipdClient(root);
  let profile: RecordedProfile | null = null;
  try {
    const { exitCode, timedOut } = await runInContainer({
      archivePath,
      settings: { root, cacheDir: join(directory, 'cache'), standby: false },
      mount: {
        options: plainHttp === true ? { plainHttp } : {},
        ...(credentials === undefined ? {} : { credentials }),
      },
      entrypoint: '',
      args: command,
      net: net ?? 'none',
      stdio: ['ignore', process.stderr.fd, process.stderr.fd],
      maxMilliseconds: RUN_MS,
      signal,
      onEnded: async ({ state }) => {
        profile = (await client.stopProfile(state.image)).profile;
      },
    });
    if (exitCode !== 0 && !timedOut) throw noStart(command, exitCode, 'a command that needs the network: --net host');
    return profile!;
  } finally {
    await client.stop(false).catch(() => {}); // none was started
  }
}

function noStart(command: readonly string[], end: number | string, hint: string): ClipError {
  return new ClipError('SYSTEM', `${command.join(' ')}: ended with ${end}, so its reads are no profile of a start`, {
    hint,
  });
}

async function recordInChroot(
  directory: string,
  archive: Archive,
  archivePath: string,
  options: RecordRunOptions,
): Promise<RecordedProfile> {
  const chroot = findProgram('chroot');
  if (process.getuid?.() !== 0 || chroot === null) {
    throw new ClipError('PERMISSION', 'only root can run a command in a chroot of an image', {
      hint: 'leave --unsafe-chroot out, with the package runc or crun installed',
    });
  }
  const { credentials, plainHttp, command, signal } = options;
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
    const child = spawn(chroot, [mountPoint, ...command], {
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
    const timedOut = end === 'SIGKILL' && performance.now() - started >= RUN_MS;
    const hint = 'the image is mounted read-only, without /proc and /dev: give a command that can run there';
    if (end !== 0 && !timedOut) throw noStart(command, end, hint);
    return (await mount.profile()).profile;
  } finally {
    await mount.unmount({ mode: 'lazy' });
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
