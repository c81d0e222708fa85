import { randomUUID } from 'node:crypto';
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { readImageMeta } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import type { DaemonSettings, ImageOptions } from '../mount/index.js';
import type { Credentials, RegistryCredentialProvider } from '../oci/index.js';
import type { MountInfoReply, MountRequest } from './api.js';
import { type ClipdClient, NotRunningError } from './client.js';
import { ownMountNamespace, resolveArchive, resolveMountPoint } from './locations.js';
import { startKeeper } from './start.js';

export interface MountOptions {
  readonly archivePath: string;
  /** An existing directory. */
  readonly mountPoint: string;
  readonly options?: Partial<ImageOptions>;
  readonly suid?: boolean;
  readonly dev?: boolean;
  /** For the registry; null: anonymous. Default: the Docker config of this process's user. */
  readonly credentials?: Credentials | RegistryCredentialProvider | null;
}

/** How the registry is reached from here: credentials, proxies, certificates. Resolved now, because clipd cannot. */
async function captureAccessFor(archivePath: string, options: MountOptions): Promise<Record<string, unknown>> {
  const fd = openArchive(archivePath);
  try {
    const image = readImageMeta({
      name: archivePath,
      size: fstatSync(fd).size,
      readAt: (offset, length) => {
        const buffer = Buffer.alloc(length);
        return buffer.subarray(0, readSync(fd, buffer, 0, length, offset));
      },
    });
    if (image.registry === '') return {};
    const { captureAccess, parseReference } = await import('../oci/index.js');
    const reference = parseReference(`${image.registry}/${image.repository}@${image.manifestDigest}`);
    const { credentials } = options;
    const plainHttp = options.options?.plainHttp ?? false;
    return {
      ...(await captureAccess(reference, { plainHttp, ...(credentials === undefined ? {} : { credentials }) })),
    };
  } finally {
    closeSync(fd);
  }
}

function openArchive(path: string): number {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (cause) {
    throw new ClipError('PERMISSION', `archive ${path}: ${(cause as NodeJS.ErrnoException).code}`, { cause });
  }
  if (fstatSync(fd).isFile()) return fd;
  closeSync(fd);
  throw new ClipError('BAD_FORMAT', `${path} is not a file`, { hint: 'give a .clip archive: clipctl index makes one' });
}

/**
 * Everything a mount request needs from this process.
 * @param root whose clipd it goes to: dead mounts of that one are left to it
 * @throws ClipError naming the archive or the mount point
 */
export async function prepareMount(
  options: MountOptions,
  daemon: NonNullable<MountRequest['daemon']>,
  root: string | null = null,
): Promise<MountRequest> {
  const { place: mountPoint, dead } = resolveMountPoint(options.mountPoint);
  if (dead) await (await import('./orphans.js')).clearDeadMounts(mountPoint, root);
  const archivePath = resolveArchive(options.archivePath);
  return {
    archivePath,
    mountPoint,
    mountNamespace: ownMountNamespace(),
    requestId: randomUUID(),
    options: options.options ?? {},
    suid: options.suid ?? false,
    dev: options.dev ?? false,
    access: await captureAccessFor(archivePath, options),
    daemon,
  };
}

/** Starting takes one attempt; others may be starting or leaving at the same time. */
const START_FOR_MS = 15_000;

/**
 * Mounts through the clipd at `settings.root`, starting one when none runs.
 * @returns what was mounted, and whether a clipd was started for it
 */
export async function mountStarting(
  client: ClipdClient,
  settings: DaemonSettings,
  request: MountRequest,
): Promise<{ mounted: MountInfoReply; started: boolean }> {
  const end = performance.now() + START_FOR_MS;
  let started = false;
  for (;;) {
    try {
      const mounted = await client.mount(request);
      await firstLookup(mounted.mountPoint);
      return { mounted, started };
    } catch (error) {
      if (!(error instanceof NotRunningError)) {
        // Nobody asked for a clipd without mounts.
        if (started) await client.stop(true).catch(() => {});
        throw error;
      }
      if (performance.now() > end) throw error;
    }
    try {
      const { serving } = await startKeeper(settings);
      started = true;
      // A clipd that fails to serve closes its socket, which says less than the reason it gives.
      const failed = serving.then(
        () => new Promise<never>(() => {}),
        (error: unknown) => Promise.reject(error),
      );
      const attempt = client.mount(request);
      attempt.catch(() => {});
      const mounted = await Promise.race([attempt, failed]);
      await firstLookup(mounted.mountPoint);
      return { mounted, started };
    } catch (error) {
      if (started) await client.stop(true).catch(() => {});
      // Another client was quicker, or the clipd that leaves has the root still: ask again.
      if (!(error instanceof ClipError) || error.code !== 'BUSY' || started) throw error;
      await new Promise((resolve) => setTimeout(resolve, 30));
    }
  }
}

/** Resolves when the mount has answered us. */
export async function firstLookup(mountPoint: string): Promise<void> {
  await stat(mountPoint);
}
