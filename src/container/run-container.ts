import { createHash } from 'node:crypto';
import { closeSync, existsSync, openSync } from 'node:fs';
import { join } from 'node:path';
import type { ImageMeta } from '../archive/index.js';
import { AbortError } from '../bytes/index.js';
import { ClipdClient } from '../client/index.js';
import type { KeptLayers } from '../oci/index.js';
import { MAX_WORD, MAX_WORDS, type StartEvent } from '../wire/index.js';
import { createBundle } from './bundle.js';
import { checkProcessOptions, statSource } from './check-options.js';
import { checkFreeId, newContainerId } from './container-state.js';
import { SignalPath, whenThere } from './first-exec.js';
import {
  checkOverlayOptions,
  type MountContainerOptions,
  type MountedContainer,
  mountContainer,
  releaseNetwork,
  unmountContainer,
} from './mount-container.js';
import { chooseNetwork } from './network.js';
import {
  exitCodeOf,
  findRuntime,
  outcomeOf,
  type RuntimeCommand,
  runAttached,
  runCommand,
  runtimeKill,
  StartError,
  type Stdio,
} from './runtime.js';
import { SignalRelay } from './signals.js';
import type { ProcessOptions } from './spec.js';

export interface RunOptions extends ProcessOptions, Omit<MountContainerOptions, 'id' | 'runtime'> {
  /** Default: twelve hex digits. */
  readonly id?: string;
  /** A program along PATH, or a path. Default: runc, else crun. */
  readonly runtime?: string;
  /** Take everything down when it has ended. Default true. */
  readonly remove?: boolean;
  /** Standard input, output and error of the container. Default: nothing, and this process's own. */
  readonly stdio?: readonly [Stdio, Stdio, Stdio];
  /** With "pipe" as stdio. */
  readonly onOutput?: (chunk: Buffer, stream: 'stdout' | 'stderr') => void;
  /** Pass signals that this process gets on to the container. Default false. */
  readonly forwardSignals?: boolean;
  /** Ends the container, by SIGKILL. */
  readonly signal?: AbortSignal;
  /** Ends it after so long, by SIGKILL: `timedOut` then. */
  readonly maxMilliseconds?: number;
  readonly onWarning?: (warning: string) => void;
  /** Called before the container is taken down, while its mount can still be asked. */
  readonly onEnded?: (container: MountedContainer) => Promise<void>;
}

export interface RunResult {
  readonly id: string;
  /** Of the container's first process; 128 + the signal that ended it. */
  readonly exitCode: number;
  readonly timedOut: boolean;
  /** Milliseconds from the request to the first process's exec, as the runtime reported it. */
  readonly firstExec: number;
}

/** Node's names of processors, and those of images. */
const ARCHITECTURES: Readonly<Record<string, string>> = { x64: 'amd64', ia32: '386' };

/** Says before exec does, and more clearly, why an image for another processor does not run. */
export function architectureWarning({ platform }: Pick<ImageMeta, 'platform'>): string | null {
  const own = ARCHITECTURES[process.arch] ?? process.arch;
  if (platform.architecture === own || platform.architecture === 'unknown') return null;
  return (
    `the image is for ${platform.os}/${platform.architecture}, this machine is linux/${own}: ` +
    'without an emulator (binfmt_misc), its programs end with "exec format error"'
  );
}

/** For metrics and reports: a clipd that is being replaced may miss it. */
async function noteStart(
  root: string,
  mounted: MountedContainer['mounted'],
  event: StartEvent,
  { requested, at }: { readonly requested: number; readonly at: number },
): Promise<void> {
  if (mounted === null) return;
  const client = new ClipdClient(root);
  await client
    .noteFirstExec({
      mountPoint: mounted.mountPoint,
      milliseconds: Math.round(at - requested),
      event,
      at: performance.timeOrigin + at,
    })
    .catch(() => {});
}

type OnOutput = NonNullable<RunOptions['onOutput']>;

function notingFirst(onOutput: OnOutput, note: () => void): OnOutput {
  let first = true;
  return (chunk, stream) => {
    if (first) note();
    first = false;
    onOutput(chunk, stream);
  };
}

/** What comes from this process, not from the user. */
export interface RunExtras {
  /** Layers that were read to index the image, for `plane: 'unpack'`. */
  readonly kept?: KeptLayers | null;
  /** Default: one for the run, with `forwardSignals`. */
  readonly signals?: SignalRelay;
}

export interface PreparedContainer extends MountedContainer {
  readonly command: RuntimeCommand;
}

/** Starts of one command share a profile, and clipd looks at its words for files that the command will read. It keeps none of them. */
export function commandOf({ entrypoint, args = [] }: Pick<RunOptions, 'entrypoint' | 'args'>): {
  command?: string;
  words?: string[];
} {
  if (entrypoint === undefined && args.length === 0) return {}; // the image's own
  const name = JSON.stringify([entrypoint ?? null, ...args]);
  const words = [entrypoint ?? '', ...args].slice(0, MAX_WORDS).map((word) => word.slice(0, MAX_WORD));
  return { command: createHash('sha256').update(name).digest('hex'), words };
}

/**
 * Refuses what cannot run whatever the image is, before one is looked for, or even indexed.
 * @throws ClipError
 */
export function checkBeforeImage(
  options: Omit<RunOptions, 'archivePath' | 'settings' | 'daemon' | 'mount'>,
  root: string,
): void {
  findRuntime(options.runtime);
  chooseNetwork(options);
  if (options.id !== undefined) checkFreeId(root, options.id);
  checkProcessOptions(options);
  checkOverlayOptions(options);
  for (const volume of options.volumes ?? []) statSource(volume);
}

/** Everything but the run: mounts, and writes the bundle. */
async function prepareContainer(
  options: RunOptions,
  { kept = null, signals }: RunExtras = {},
): Promise<PreparedContainer> {
  const runtime = findRuntime(options.runtime);
  checkProcessOptions(options);
  const id = options.id ?? newContainerId();
  const { settings } = options;
  const mount = { ...options.mount, ...commandOf(options) };
  const container = await mountContainer({ ...options, id, runtime, mount }, { kept, signal: signals?.calledOff });
  try {
    signals?.check();
    const warning = architectureWarning(container.image);
    if (warning !== null) options.onWarning?.(warning);
    const { bundle, log, pid } = container.paths;
    const { rootfs } = container.state;
    createBundle({ ...options, bundle, id, rootfs, image: container.image, check: true });
    return { ...container, command: { runtime, id, bundle, log, pid } };
  } catch (error) {
    await unmountContainer(settings.root, settings.cacheDir, id, { ended: true });
    throw error;
  }
}

/**
 * Runs a command of an image in a container and resolves when it has ended.
 * @returns its exit code
 * @throws StartError (exitCode 125, 126, 127, as Docker's) when it did not start; ClipError otherwise. Nothing is left behind then
 * @example
 * const { exitCode } = await runInContainer({ settings, archivePath: 'py.clip', args: ['python3', '-c', 'print(1)'] });
 */
export async function runInContainer(options: RunOptions, extras: RunExtras = {}): Promise<RunResult> {
  if (options.forwardSignals !== true || extras.signals !== undefined) return runAndWait(options, extras);
  const signals = new SignalRelay();
  try {
    return await runAndWait(options, { ...extras, signals });
  } finally {
    signals.close();
  }
}

async function runAndWait(options: RunOptions, extras: RunExtras): Promise<RunResult> {
  const requested = performance.now();
  const { signals } = extras;
  const container = await prepareContainer(options, extras);
  const { settings } = options;
  const { command, paths, mounted } = container;
  const { onOutput } = options;
  const noteOutput = (): void => void noteStart(settings.root, mounted, 'output', { requested, at: performance.now() });
  const takeDown = (ended: boolean): Promise<boolean> =>
    unmountContainer(settings.root, settings.cacheDir, command.id, { ended, force: true });
  const started = whenThere(paths.pid);
  try {
    const running = runAttached(runCommand(command), {
      stdio: options.stdio ?? ['ignore', 'inherit', 'inherit'],
      terminal: options.terminal ?? false,
      ...(onOutput === undefined ? {} : { onOutput: notingFirst(onOutput, noteOutput) }),
    });
    const path = new SignalPath(paths.pid, started.at, running.kill);
    signals?.relayTo((signal) => void path.pass(signal));
    const abort = (): void => running.kill('SIGKILL');
    options.signal?.addEventListener('abort', abort);
    if (options.signal?.aborted) abort();
    let timedOut = false;
    const timer =
      options.maxMilliseconds === undefined
        ? null
        : setTimeout(() => {
            timedOut = true;
            runtimeKill(command.runtime, command.id);
          }, options.maxMilliseconds);
    let firstExec = Number.NaN;
    void started.at.then((at) => {
      firstExec = at - requested;
      void noteStart(settings.root, mounted, 'exec', { requested, at });
    });
    const code = await running.ended.finally(() => {
      signals?.relayTo(null);
      options.signal?.removeEventListener('abort', abort);
      if (timer !== null) clearTimeout(timer);
    });
    if (options.signal?.aborted) throw new AbortError(`the container ${command.id}`, options.signal);
    if (path.calledOff) signals?.check();
    const heard = (options.stdio?.[2] ?? 'inherit') === 'inherit';
    const outcome = outcomeOf(command, code, heard);
    if (outcome instanceof StartError) {
      signals?.check(); // the signal ended the runtime before it had started anything
      throw outcome;
    }
    await options.onEnded?.(container);
    if (options.remove ?? true) await takeDown(true);
    else await releaseNetwork(settings.root, settings.cacheDir, command.id);
    return { id: command.id, exitCode: outcome, timedOut, firstExec };
  } catch (error) {
    await takeDown(false);
    throw error;
  } finally {
    started.stop();
  }
}

/** One command after the other, by a shell: less than a Node process that waits for as long as the container runs. */
function inTurn(first: readonly string[], second: readonly string[]): readonly [string, ...string[]] {
  const quoted = (line: readonly string[]): string =>
    line.map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(' ');
  return ['/bin/sh', '-c', `${quoted(first)}; ${quoted(second)}`];
}

/**
 * Starts a container and leaves it: resolves when its first process runs. What it prints goes to a file.
 * @param cleanUp a command line that is run when the container has ended; null: it stays until `unmountContainer`
 */
export async function startContainer(
  options: RunOptions,
  cleanUp: ((id: string) => readonly string[]) | null,
  extras: RunExtras = {},
): Promise<{ readonly id: string; readonly output: string }> {
  const { settings } = options;
  const requested = performance.now();
  const container = await prepareContainer(options, extras);
  const { command, state } = container;
  const output = join(state.keepWritable ? command.bundle : state.writable, 'output.log');
  const log = openSync(output, 'a', 0o600);
  const started = whenThere(command.pid);
  try {
    const line =
      cleanUp === null ? runCommand({ ...command, detach: true }) : inTurn(runCommand(command), cleanUp(command.id));
    const running = runAttached(line, { stdio: ['ignore', log, log], terminal: false });
    const end = await Promise.race([running.ended, started.at.then(() => null)]);
    if (end !== null && !existsSync(command.pid)) {
      const outcome = outcomeOf(command, end);
      throw outcome instanceof StartError
        ? outcome
        : new StartError(125, `the container ended with ${exitCodeOf(end, null)}`);
    }
    await noteStart(settings.root, container.mounted, 'exec', { requested, at: performance.now() });
    extras.signals?.check();
    running.release();
    return { id: command.id, output };
  } catch (error) {
    await unmountContainer(settings.root, settings.cacheDir, command.id, { force: true });
    throw error;
  } finally {
    started.stop();
    closeSync(log);
  }
}
