import { randomUUID } from 'node:crypto';
import { closeSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { ClipError } from '../bytes/index.js';
import type { Credentials, RegistryCredentialProvider } from '../oci/index.js';
import { openRegularFile } from '../paths/index.js';
import type { S3Credentials } from '../s3/index.js';
import type { DaemonSettings, ImageOptions, MountInfoReply, MountRequest } from '../wire/index.js';
import { ownMountNamespace, resolveArchive, resolveMountPoint } from '../wire/index.js';
import { type ClipdClient, NotRunningError } from './clipd-client.js';
import { dropKeeper } from './keeper-process.js';
import { startKeeper } from './start-clipd.js';

export interface MountOptions {
  readonly archivePath: string;
  /** An existing directory. */
  readonly mountPoint: string;
  readonly options?: Partial<ImageOptions>;
  readonly suid?: boolean;
  readonly dev?: boolean;
  /** SHA-256 of the command that will run in a container of it. Default: the image's own. */
  readonly command?: string;
  /** Its first words, an empty one for the image's own entrypoint: clipd fetches what they name at once. */
  readonly words?: readonly string[];
  /** For the registry; null: anonymous. Default: the Docker config of this process's user. */
  readonly credentials?: Credentials | S3Credentials | RegistryCredentialProvider | null;
}

/** How the registry is reached from here: credentials, proxies, certificates. Resolved now, because clipd cannot. */
async function captureAccessFor(archivePath: string, options: MountOptions): Promise<Record<string, unknown>> {
  // Loaded while a clipd that had to be started boots.
  const { readArchiveOrigin, placeOf } = await import('./archive-origin.js');
  const { storage, image } = readArchiveOrigin(archivePath);
  const { credentials } = options;
  if (storage.kind === 's3') return await s3Access(credentials);
  if (credentials !== undefined && credentials !== null && 'accessKeyId' in credentials) {
    throw new ClipError('USAGE', `${archivePath}: credentials for S3 given, but its data is not in S3`);
  }
  const imageRef = options.options?.storage?.imageRef;
  const { registry, repository } = imageRef === undefined ? image : await placeOf(imageRef);
  if (registry === '') return {};
  const { captureAccess } = await import('./registry-access.js');
  const plainHttp = options.options?.plainHttp ?? false;
  return {
    ...(await captureAccess(
      { ...image, registry, repository },
      { plainHttp, ...(credentials === undefined ? {} : { credentials }) },
    )),
  };
}

/** Keys as given, or those of this process's environment, which clipd does not have. What neither knows the SDK looks for there. */
async function s3Access(credentials: MountOptions['credentials']): Promise<Record<string, unknown>> {
  if (credentials === null) return { s3: null };
  if (credentials === undefined) {
    const { environmentS3Credentials } = await import('../s3/index.js');
    const found = environmentS3Credentials();
    return found === undefined ? {} : { s3: found };
  }
  if ('accessKeyId' in credentials) return { s3: credentials };
  if ('getCredentials' in credentials) {
    throw new ClipError('USAGE', 'a registry credential provider given, but the data is in S3', {
      hint: 'give { accessKeyId, secretAccessKey }',
    });
  }
  return { s3: { accessKeyId: credentials.username ?? '', secretAccessKey: credentials.password ?? '' } };
}

function openArchive(path: string): number {
  try {
    return openRegularFile(path);
  } catch (cause) {
    if (cause instanceof ClipError) throw cause;
    throw new ClipError('PERMISSION', `archive ${path}: ${(cause as NodeJS.ErrnoException).code}`, { cause });
  }
}

interface Located {
  readonly mountPoint: string;
  readonly archivePath: string;
}

async function locateMount(options: MountOptions, root: string | null): Promise<Located> {
  const { place: mountPoint, dead, erofs } = resolveMountPoint(options.mountPoint);
  if (dead || erofs) await (await import('./orphans.js')).clearDeadMounts(mountPoint, root);
  const archivePath = resolveArchive(options.archivePath);
  closeSync(openArchive(archivePath));
  return { mountPoint, archivePath };
}

async function requestFor(
  { mountPoint, archivePath }: Located,
  options: MountOptions,
  daemon: NonNullable<MountRequest['daemon']>,
): Promise<MountRequest> {
  return {
    archivePath,
    mountPoint,
    mountNamespace: ownMountNamespace(),
    requestId: randomUUID(),
    options: options.options ?? {},
    suid: options.suid ?? false,
    dev: options.dev ?? false,
    access: await captureAccessFor(archivePath, options),
    ...(options.command === undefined ? {} : { command: options.command }),
    ...(options.words === undefined ? {} : { words: options.words }),
    daemon,
  };
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
  return requestFor(await locateMount(options, root), options, daemon);
}

/** Starting takes one attempt; others may be starting or leaving at the same time. */
const START_FOR_MS = 15_000;

/**
 * Mounts through the clipd at `settings.root`, starting one when none runs: at once, when there is something to mount, and
 * while the request is put together.
 * @returns what was mounted, and whether a clipd was started for it
 */
export async function mountStarting(
  client: ClipdClient,
  settings: DaemonSettings,
  options: MountOptions,
  daemon: NonNullable<MountRequest['daemon']>,
): Promise<{ mounted: MountInfoReply; started: boolean }> {
  const end = performance.now() + START_FOR_MS;
  const located = await locateMount(options, settings.root);
  if (client.mayRun()) dropKeeper();
  let keeper = client.mayRun() ? null : startKeeper(settings);
  keeper?.catch(() => {}); // awaited below
  try {
    const request = await requestFor(located, options, daemon);
    for (;;) {
      if (keeper === null) {
        try {
          const mounted = await client.mount(request);
          await firstLookup(mounted.mountPoint);
          return { mounted, started: false };
        } catch (error) {
          if (!(error instanceof NotRunningError) || performance.now() > end) throw error;
        }
        keeper = startKeeper(settings);
      }
      const started = await keeper.catch((error: unknown) => {
        // Another client was quicker, or the clipd that leaves has the root still: ask again.
        if (error instanceof ClipError && error.code === 'BUSY') return null;
        throw error;
      });
      if (started === null) {
        keeper = null;
        await new Promise((resolve) => setTimeout(resolve, 30));
        continue;
      }
      // A clipd that fails to serve closes its socket, which says less than the reason it gives.
      const failed = started.serving.then(
        () => new Promise<never>(() => {}),
        (error: unknown) => Promise.reject(error),
      );
      const attempt = client.mount(request);
      attempt.catch(() => {});
      const mounted = await Promise.race([attempt, failed]);
      await firstLookup(mounted.mountPoint);
      return { mounted, started: true };
    }
  } catch (error) {
    // Nobody asked for a clipd without mounts.
    const started = await keeper?.catch(() => null);
    if (started) await client.stop(true).catch(() => {});
    throw error;
  }
}

/** Resolves when the mount has answered us. */
export async function firstLookup(mountPoint: string): Promise<void> {
  await stat(mountPoint);
}
