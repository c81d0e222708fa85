import { type SpawnSyncReturns, spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { basename } from 'node:path';
import { ClipError } from '../bytes/index.js';
import { findProgram } from './programs.js';

/** In the order in which they are looked for. */
const RUNTIMES = ['runc', 'crun'] as const;

/** What Docker's exit codes say of a container that did not run. */
const EXIT_NOT_STARTED = 125;
export const EXIT_NOT_EXECUTABLE = 126;
export const EXIT_NOT_FOUND = 127;

/** A container that did not start, and the exit code that says so. */
export class StartError extends ClipError {
  override readonly name = 'StartError';

  constructor(
    readonly exitCode: number,
    message: string,
    options: { hint?: string; cause?: unknown } = {},
    /** The runtime has written `message` to this process's standard error already. */
    readonly heard = false,
  ) {
    super(exitCode === EXIT_NOT_STARTED ? 'SYSTEM' : 'NOT_FOUND', message, options);
  }
}

/** @param name a program along PATH or a path; default: runc, else crun. @throws ClipError UNSUPPORTED when there is none */
export function findRuntime(name?: string): string {
  for (const candidate of name === undefined ? RUNTIMES : [name]) {
    const program = findProgram(candidate);
    if (program !== null) return program;
  }
  const missing =
    name === undefined ? `no container runtime (${RUNTIMES.join(' or ')})` : `no container runtime ${name}`;
  throw new ClipError('UNSUPPORTED', `this machine has ${missing}`, {
    hint: 'install the package runc or crun, or name one: --runtime PATH',
  });
}

export interface RuntimeCommand {
  readonly runtime: string;
  readonly id: string;
  readonly bundle: string;
  /** Where the runtime writes what it has to say, and the process id of a container that it started. */
  readonly log: string;
  readonly pid: string;
  readonly detach?: boolean;
}

/** Controllers that a machine with hierarchies of version 1 has left in version 2. */
const HYBRID = '/sys/fs/cgroup/unified';

function isHybrid(): boolean {
  try {
    return readFileSync(`${HYBRID}/cgroup.controllers`, 'latin1').trim() !== '';
  } catch {
    return false;
  }
}

/**
 * How to call a runtime. crun refuses a machine that mixes cgroup versions, whatever its --cgroup-manager (libcrun:
 * get_cgroup_mode): there it is shown version 1 only, in a mount namespace of its own.
 */
function invocation(runtime: string): readonly [string, ...string[]] {
  if (basename(runtime) !== 'crun' || process.getuid?.() !== 0 || !isHybrid()) return [runtime];
  const inside = 'umount -l "$1" && shift && exec "$@"';
  return ['unshare', '--mount', '--propagation', 'slave', 'sh', '-c', inside, 'sh', HYBRID, runtime];
}

function callRuntime(runtime: string, args: readonly string[], errors: 'ignore' | 'pipe'): SpawnSyncReturns<string> {
  const [program, ...first] = invocation(runtime);
  return spawnSync(program, [...first, ...args], { stdio: ['ignore', 'pipe', errors], encoding: 'utf8' });
}

/** The command line that creates and starts a container. runc, crun and runsc take the same. */
export function runCommand({ runtime, id, bundle, log, pid, detach }: RuntimeCommand): readonly [string, ...string[]] {
  const options = ['--bundle', bundle, '--pid-file', pid, ...(detach ? ['--detach'] : [])];
  return [...invocation(runtime), '--log', log, '--log-format', 'json', 'run', ...options, id];
}

export type Status = 'creating' | 'created' | 'running' | 'paused' | 'stopped';

/** What the runtime knows of a container; 'foreign': it has another of the same id, of another bundle; null: nothing. */
export function runtimeStatus(runtime: string, id: string, bundle: string): Status | 'foreign' | null {
  const ran = callRuntime(runtime, ['state', id], 'ignore');
  if (ran.status !== 0) return null;
  try {
    const state = JSON.parse(ran.stdout) as { status?: Status; bundle?: string };
    return state.bundle === bundle ? (state.status ?? 'foreign') : 'foreign';
  } catch {
    return 'foreign';
  }
}

/** Makes the runtime forget a container, and ends its processes with `force`. @returns what it said when it could not */
export function runtimeDelete(runtime: string, id: string, force: boolean): string | null {
  const args = ['delete', ...(force ? ['--force'] : []), id];
  const ran = callRuntime(runtime, args, 'pipe');
  return ran.status === 0 ? null : ran.stderr.trim().replaceAll('\n', '; ');
}

/** Kills all processes of a container. */
export function runtimeKill(runtime: string, id: string): void {
  callRuntime(runtime, ['kill', '--all', id, 'KILL'], 'ignore');
}

/** The runtime's last error, from its log of JSON lines. */
function lastError(log: string): string | null {
  if (!existsSync(log)) return null;
  let last: string | null = null;
  for (const line of readFileSync(log, 'utf8').split('\n')) {
    try {
      const { level, msg } = JSON.parse(line) as { level?: string; msg?: string };
      if ((level === 'error' || level === 'fatal') && typeof msg === 'string') last = msg;
    } catch {
      // not a line of the log
    }
  }
  return last;
}

/** As moby's daemon reads the messages of runtimes (daemon/start.go, errors). */
function exitCodeFor(message: string): number {
  if (
    /exec: .*(?:not found|no such file)|executable file .*not found|no such file or directory: .*exec/i.test(message)
  ) {
    return EXIT_NOT_FOUND;
  }
  if (/exec(?:utable)?:? .*(?:permission denied|is a directory|not a directory)|open executable/i.test(message)) {
    return EXIT_NOT_EXECUTABLE;
  }
  return EXIT_NOT_STARTED;
}

/** What to do about a runtime's messages. */
const HINTS: readonly (readonly [RegExp, string])[] = [
  [/already exists/, 'the runtime has a container of this id that is not of this clipd: give another --name'],
  [/hybrid mode/, 'this machine mixes cgroup versions, which crun refuses: --runtime runc'],
  [/memory limit|out of memory|oom/i, 'give more --memory'],
  [/cgroup/i, "this machine's cgroups do not take the limits: leave --memory and --cpus out, or try another --runtime"],
  [/error running hook/i, 'the network could not be made: --net host does without it'],
  [/error mounting/i, 'look at --volume and --tmpfs'],
];

/** What the end of a runtime's process means: the container's own exit code, or an error when it never started. */
export function outcomeOf(command: RuntimeCommand, code: number, heard = false): number | StartError {
  if (code === 0 || existsSync(command.pid)) return code;
  const name = basename(command.runtime);
  const message = lastError(command.log);
  if (message === null) return new StartError(EXIT_NOT_STARTED, `${name} ended with ${code} and started nothing`);
  const hint =
    HINTS.find(([pattern]) => pattern.test(message))?.[1] ?? 'look at the flags of this run, or try --runtime PROGRAM';
  return new StartError(exitCodeFor(message), `${name} cannot start the container: ${message}`, { hint }, heard);
}

/** What a shell gives for a program that a signal ended. */
export function exitCodeOf(code: number | null, signal: NodeJS.Signals | null): number {
  return code ?? 128 + (signal === null ? 0 : constants.signals[signal]);
}

export interface Attached {
  /** Resolves with the exit code of the runtime's process. */
  readonly ended: Promise<number>;
  kill(signal: NodeJS.Signals): void;
  /** Lets this process end before it. */
  release(): void;
}

export type Stdio = 'inherit' | 'ignore' | 'pipe' | number;

/**
 * Runs a program with these standard descriptors. Without a terminal it has a session of its own, so that
 * Ctrl-C reaches it once, through us, and so that it lives on when this process is killed.
 */
export function runAttached(
  [program, ...args]: readonly [string, ...string[]],
  options: {
    stdio: readonly [Stdio, Stdio, Stdio];
    terminal: boolean;
    onOutput?: (chunk: Buffer, stream: 'stdout' | 'stderr') => void;
  },
): Attached {
  const child = spawn(program, args, { stdio: [...options.stdio], detached: !options.terminal });
  for (const name of ['stdout', 'stderr'] as const) {
    child[name]?.on('data', (chunk: Buffer) => options.onOutput?.(chunk, name));
  }
  const ended = new Promise<number>((resolve, reject) => {
    child.once('error', (cause) =>
      reject(new StartError(EXIT_NOT_STARTED, `cannot run ${program}: ${cause.message}`, { cause })),
    );
    child.once('close', (code, signal) => resolve(exitCodeOf(code, signal)));
  });
  return { ended, kill: (signal) => void child.kill(signal), release: () => child.unref() };
}
