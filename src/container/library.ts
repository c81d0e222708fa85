import { AbortError, type Check, checked, optionsOf } from '../bytes/index.js';
import type { Credentials, RegistryCredentialProvider } from '../oci/index.js';
import { type PullPolicy, resolveArchive } from '../store/index.js';
import {
  type DaemonSettings,
  defaultCacheDir,
  defaultRoot,
  IDLE_EXIT_SECONDS,
  type ImageOptions,
  resolvePlace,
} from '../wire/index.js';
import { newContainerId } from './container-state.js';
import { type MountedContainer, mountContainer, type OverlayOptions, unmountContainer } from './mount-container.js';
import type { NetworkOptions } from './network.js';
import { type RunOptions, type RunResult, runInContainer } from './run-container.js';

/** Which image, and which clipd shows it. */
export interface ContainerOptions extends OverlayOptions, NetworkOptions {
  /** A .clip file. Or: */
  readonly archivePath?: string;
  /** an image, whose archive is looked for in the cache directory, or made. */
  readonly image?: string;
  /** With an image: when the registry is asked what its tag means. Default "missing". */
  readonly pull?: PullPolicy;
  /** With an image of several platforms: "linux/arm64". Default: the host's. */
  readonly platform?: string;
  /** Default: twelve hex digits. */
  readonly id?: string;
  /** Of the clipd that mounts, which is started if none runs there. Default: clipctl's. */
  readonly root?: string;
  readonly cacheDir?: string;
  /** For the registry; null: anonymous. Default: the logins of this process's user. */
  readonly credentials?: Credentials | RegistryCredentialProvider | null;
  readonly plainHttp?: boolean;
  /** How the image's bytes are fetched, as for mountArchive. */
  readonly fetch?: Partial<Pick<ImageOptions, 'readahead' | 'prefetch' | 'fill' | 'readTimeout' | 'plane'>>;
}

export type RunContainerOptions = ContainerOptions &
  Omit<RunOptions, 'archivePath' | 'settings' | 'daemon' | 'mount' | 'id'>;

/** Each option once: the compiler finds one that is missing. */
type Names<T> = { readonly [K in keyof Required<T>]: Check<unknown> };

/** Their values are checked where they are used. */
const any: Check<unknown> = (value) => value;

const CONTAINER: Names<ContainerOptions> = {
  archivePath: any,
  image: any,
  pull: any,
  platform: any,
  id: any,
  root: any,
  cacheDir: any,
  credentials: any,
  plainHttp: any,
  fetch: any,
  overlay: any,
  upper: any,
  tmpfsUpper: any,
  nosuid: any,
  plane: any,
  mountBase: any,
  rootfsBase: any,
  net: any,
  publish: any,
};

const RUN: Names<RunContainerOptions> = {
  ...CONTAINER,
  args: any,
  entrypoint: any,
  env: any,
  cwd: any,
  user: any,
  terminal: any,
  terminalSize: any,
  hostname: any,
  volumes: any,
  tmpfs: any,
  readOnly: any,
  memory: any,
  cpus: any,
  runtime: any,
  remove: any,
  stdio: any,
  onOutput: any,
  forwardSignals: any,
  signal: any,
  maxMilliseconds: any,
  onWarning: any,
  onEnded: any,
};

/** @throws ClipError USAGE for an option that there is not */
const checkContainerOptions = optionsOf({}, CONTAINER);
const checkRunOptions = optionsOf({}, RUN);
const checkMountOptions = optionsOf({}, { signal: checked('an AbortSignal', (value) => value instanceof AbortSignal) });

async function mountOptions(options: ContainerOptions, id: string, signal?: AbortSignal) {
  const { archivePath, image, pull, platform, credentials, plainHttp, fetch } = options;
  const cacheDir = resolvePlace(options.cacheDir ?? defaultCacheDir());
  const registry = {
    ...(credentials === undefined ? {} : { credentials }),
    ...(plainHttp === undefined ? {} : { plainHttp }),
  };
  const { path } = await resolveArchive({ clip: archivePath, image, pull, platform, cacheDir, signal, ...registry });
  const settings: DaemonSettings = {
    root: resolvePlace(options.root ?? defaultRoot()),
    cacheDir,
    idleExit: IDLE_EXIT_SECONDS,
  };
  return {
    ...options,
    id,
    archivePath: path,
    settings,
    mount: {
      options: { ...fetch, ...(plainHttp === true ? { plainHttp } : {}) },
      ...(credentials === undefined ? {} : { credentials }),
    },
  };
}

/**
 * An image with a writable layer over it. The mount outlives this process; `cleanup` takes it down, in this process or another.
 *
 * @example
 * ```ts
 * await using mounter = new OverlayMounter({ image: 'registry.example.com/py:latest', id: 'job-1' });
 * const { rootfs, bundle, image } = await mounter.mount();
 * createBundle({ bundle, rootfs, image, args: ['python3', '-c', 'print(1)'] });
 * ```
 */
export class OverlayMounter implements AsyncDisposable {
  readonly id: string;
  readonly #options: ContainerOptions;
  #mounted: Promise<MountedContainer> | null = null;

  constructor(options: ContainerOptions) {
    checkContainerOptions(options, 'OverlayMounter: options');
    this.#options = options;
    this.id = options.id ?? newContainerId();
  }

  /**
   * Mounts; a further call gives what the first one did. After a failure, or a signal, it may be tried again.
   * @param options.signal calls it off: nothing stays behind
   * @returns the merged tree, the directory for the bundle, and what the archive says of the image
   * @throws ClipError BUSY when the id is in use; otherwise naming the archive, the directory or what is missing; AbortError
   */
  async mount(options: { readonly signal?: AbortSignal | undefined } = {}): Promise<{
    readonly rootfs: string;
    readonly bundle: string;
    readonly image: MountedContainer['image'];
  }> {
    checkMountOptions(options, 'OverlayMounter.mount: options');
    const { signal } = options;
    const what = `mounting the container ${this.id}`;
    if (signal?.aborted) throw new AbortError(what, signal);
    this.#mounted ??= this.#mount(signal);
    const mounting = this.#mounted;
    try {
      const { state, paths, image } = await mounting;
      return { rootfs: state.rootfs, bundle: paths.bundle, image };
    } catch (error) {
      if (this.#mounted === mounting) this.#mounted = null;
      throw signal?.aborted ? new AbortError(what, signal) : error;
    }
  }

  async #mount(signal: AbortSignal | undefined): Promise<MountedContainer> {
    const options = await mountOptions(this.#options, this.id, signal);
    signal?.throwIfAborted();
    const mounted = await mountContainer(options, { signal });
    if (!signal?.aborted) return mounted;
    await unmountContainer(options.settings.root, options.settings.cacheDir, this.id, { force: true });
    throw new AbortError(`mounting the container ${this.id}`, signal);
  }

  /**
   * Takes it all down; done already is done. Without `force`, a container that runs is an error.
   * @throws ClipError BUSY
   */
  async cleanup(options: { readonly force?: boolean } = {}): Promise<void> {
    await this.#mounted?.catch(() => {}); // it took itself down
    const root = resolvePlace(this.#options.root ?? defaultRoot());
    const cacheDir = resolvePlace(this.#options.cacheDir ?? defaultCacheDir());
    await unmountContainer(root, cacheDir, this.id, options);
    this.#mounted = null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.cleanup({ force: true });
  }
}

/**
 * Runs a command of an image in a container, and resolves when it has ended and everything is taken down.
 * @returns its exit code, and when its first process began
 * @throws StartError (exitCode 125, 126, 127, as Docker's) when it did not start; ClipError otherwise
 * @example
 * ```ts
 * const { exitCode } = await runContainer({ image: 'python:3', args: ['python3', '-c', 'print(1)'] });
 * ```
 */
export async function runContainer(options: RunContainerOptions): Promise<RunResult> {
  checkRunOptions(options, 'runContainer: options');
  const { signal } = options;
  if (signal?.aborted) throw new AbortError('running a container', signal);
  const id = options.id ?? newContainerId();
  try {
    return await runInContainer({ ...options, ...(await mountOptions(options, id, signal)) });
  } catch (error) {
    throw signal?.aborted && !(error instanceof AbortError) ? new AbortError('running a container', signal) : error;
  }
}
