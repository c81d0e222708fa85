import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const PROGRAM = fileURLToPath(new URL('../../../bin/clipctl.js', import.meta.url));

export interface ProgramOptions {
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  /** Gets the child, for sending it signals. */
  readonly onStart?: (child: ChildProcess) => void;
}

export interface Ran {
  /** null when a signal ended it. */
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
  /** From its start to its end. */
  readonly seconds: number;
  /** From its start to its first byte on stdout; 0 when there was none. */
  readonly firstOutput: number;
}

/** Runs a program to its end, with any exit code. */
export async function runProgram(command: string, args: readonly string[], options: ProgramOptions = {}): Promise<Ran> {
  const started = process.hrtime.bigint();
  const since = (): number => Number(process.hrtime.bigint() - started) / 1e9;
  const child = spawn(command, args, {
    env: options.env ?? process.env,
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  options.onStart?.(child);
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  let firstOutput = 0;
  child.stdout.on('data', (chunk: Buffer) => {
    firstOutput ||= since();
    stdout.push(chunk);
  });
  child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk));
  const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (c, s) => resolve([c, s]));
  });
  return {
    code,
    signal,
    stdout: Buffer.concat(stdout).toString(),
    stderr: Buffer.concat(stderr).toString(),
    seconds: since(),
    firstOutput,
  };
}

export interface Stats {
  readonly counters: Readonly<Record<string, number>>;
  readonly connections: readonly { readonly inFlight: number }[];
  readonly memory: { readonly serverRss: number; readonly keeperRss: number };
}

/** clipctl as a user runs it, by its own first line, with a clipd, a state directory and a span cache of its own. */
export class Clipctl {
  private constructor(
    /** Everything lies below: `root`, `cache`, and the files of the tests that use this class. */
    readonly directory: string,
    readonly env: NodeJS.ProcessEnv,
  ) {}

  static async create(options: { parent?: string; env?: NodeJS.ProcessEnv } = {}): Promise<Clipctl> {
    const directory = await mkdtemp(path.join(options.parent ?? os.tmpdir(), 'clip-e2e-'));
    const env = {
      ...process.env,
      CLIP_ROOT: path.join(directory, 'root'),
      CLIP_CACHE_DIR: path.join(directory, 'cache'),
      // On a busy machine anything may take 10 s, after which a line of progress would stand on stderr.
      CLIP_PROGRESS: 'none',
    };
    return new Clipctl(directory, { ...env, ...options.env });
  }

  path(...parts: string[]): string {
    return path.join(this.directory, ...parts);
  }

  /** An empty directory to mount at. */
  async place(name: string): Promise<string> {
    const place = this.path(name);
    await mkdir(place, { recursive: true });
    return place;
  }

  async run(args: readonly string[], options: ProgramOptions = {}): Promise<Ran> {
    const ran = await runProgram(PROGRAM, args, {
      ...options,
      env: { ...this.env, ...options.env },
    });
    if (ran.code === 0 && args[0] === 'mount') this.#assertPlane(args);
    return ran;
  }

  /** With CLIP_PLANE all tests of a file run over that plane: a mount that another one serves would prove nothing. */
  #assertPlane(args: readonly string[]): void {
    const place = args[args.indexOf('--at') + 1]!;
    if (this.env.CLIP_PLANE !== 'kernel' || !args.includes('--at')) return;
    const line = readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .findLast((one) => one.split(' ')[4] === place);
    if (line !== undefined && !line.includes(' - erofs ')) throw new Error(`the kernel does not serve it: ${line}`);
  }

  /** Like run, but an exit code other than 0 is an error that shows the output. */
  async ok(...args: string[]): Promise<Ran> {
    const ran = await this.run(args);
    if (ran.code !== 0) throw new Error(`clipctl ${args.join(' ')}: exit ${ran.code ?? ran.signal}: ${ran.stderr}`);
    return ran;
  }

  async json<T>(...args: string[]): Promise<T> {
    return JSON.parse((await this.ok(...args, '--json')).stdout) as T;
  }

  async stats(): Promise<Stats> {
    return await this.json<Stats>('stats');
  }

  /** Mount points of this host's clipd that the kernel knows of. */
  mounts(): string[] {
    return readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .map((line) => line.split(' ')[4] ?? '')
      .map((escaped) => escaped.replaceAll(/\\(\d{3})/g, (_, octal) => String.fromCharCode(Number.parseInt(octal, 8))))
      .filter((mountPoint) => mountPoint.startsWith(`${this.directory}/`));
  }

  /** Ends the clipd with all its mounts. */
  async stop(): Promise<void> {
    if (!existsSync(this.path('root'))) return;
    await this.run(['daemon', '--stop']);
  }

  /** Ends the clipd and removes everything; throws if it left a mount behind, after taking that away. */
  async close(): Promise<void> {
    await this.stop();
    const left = this.mounts();
    for (const mountPoint of left.reverse()) await runProgram('umount', ['-l', mountPoint]);
    await rm(this.directory, { recursive: true, force: true });
    if (left.length > 0) throw new Error(`left mounted: ${left.join(', ')}`);
  }
}
