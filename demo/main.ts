// npm run demo [-- REF [COMMAND ARGS…]]: an image from its registry to running programs, without a pull. REF names an image of
// your own.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { access, constants, lstat, mkdir, mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { findProgram } from '../src/container/index.js';
import {
  countEntries,
  findNode,
  type LayerSource,
  NPM_HOME,
  packImage,
  sha256File,
  stageApp,
  stageBase,
  stageNpm,
} from './pack.js';
import { serveLayout } from './registry.js';

const clipctl = fileURLToPath(new URL('../../bin/clipctl.js', import.meta.url));
const abort = new AbortController();
const undo: (() => Promise<void> | void)[] = [];

/** Everything that the demo makes is undone in reverse order, however it ends. */
async function cleanUp(): Promise<void> {
  for (let step = undo.pop(); step; step = undo.pop()) {
    try {
      await step();
    } catch (error) {
      process.stderr.write(`demo: while cleaning up: ${error instanceof Error ? error.message : String(error)}\n`);
    }
  }
}

/** The demo's requirements, each with the remedy if it is missing. */
async function missing(): Promise<string[]> {
  const lacks: string[] = [];
  if (process.platform !== 'linux') return [`Linux: this is ${process.platform}`];
  if (process.getuid?.() !== 0) lacks.push('root, for chroot and mount: run it with sudo, or as root in a container');
  await access('/dev/fuse', constants.R_OK | constants.W_OK).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT')
      lacks.push('/dev/fuse: "modprobe fuse"; in a container add --device /dev/fuse --cap-add SYS_ADMIN');
    else if (error.code !== 'EACCES' || process.getuid?.() === 0) lacks.push(`access to /dev/fuse: ${error.message}`);
  });
  if (spawnSync('tar', ['--version']).status !== 0)
    lacks.push('tar (GNU tar, of Debian\'s base system): "apt-get install tar"');
  return lacks;
}

interface Output {
  readonly stdout: string;
  /** From the start of the program to the first byte it printed, in seconds. */
  readonly firstOutput: number;
  readonly seconds: number;
}

/** Runs a program and shows its command line; its stderr goes to ours. Ctrl-C reaches it through the terminal. */
async function show(line: string, command: string, args: readonly string[], env = process.env): Promise<Output> {
  process.stderr.write(`$ ${line}\n`);
  abort.signal.throwIfAborted();
  const started = process.hrtime.bigint();
  const since = (): number => Number(process.hrtime.bigint() - started) / 1e9;
  const child = spawn(command, args, { env, stdio: ['ignore', 'pipe', 'inherit'] });
  const onAbort = (): void => void child.kill('SIGTERM');
  abort.signal.addEventListener('abort', onAbort);
  let stdout = '';
  let firstOutput = 0;
  child.stdout.on('data', (chunk: Buffer) => {
    firstOutput ||= since();
    stdout += chunk.toString();
  });
  try {
    await new Promise<void>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code, signal) =>
        code === 0 ? resolve() : reject(new Error(`"${line}" ended with ${signal ?? `exit code ${code}`}`)),
      );
    });
  } finally {
    abort.signal.removeEventListener('abort', onAbort);
  }
  abort.signal.throwIfAborted();
  return { stdout, firstOutput, seconds: since() };
}

interface Subject {
  readonly reference: string;
  /** Programs to run by chroot; the first one's output is "ready". */
  commands(mountPoint: string): Promise<readonly (readonly string[])[]>;
  /** Throws unless the outputs and the files equal the packed ones. Returns a description of the compared things. */
  verify(mountPoint: string, outputs: readonly string[]): Promise<string>;
}

/** An image made of this machine's own node and npm, served by the demo's registry. */
async function ownImage(directory: string): Promise<Subject> {
  const started = Date.now();
  const parts = findNode();
  const stage = (name: string): string => path.join(directory, name);
  for (const name of ['base', 'npm', 'app']) await mkdir(stage(name));
  await Promise.all([stageBase(stage('base'), parts), stageNpm(stage('npm'), parts), stageApp(stage('app'))]);
  const layers: LayerSource[] = [
    { directory: stage('base'), comment: 'node with the libraries it needs' },
    { directory: stage('npm'), comment: 'npm; a whiteout removes the documentation of the base layer' },
    { directory: stage('app'), comment: 'an application; an opaque directory hides the manual pages of npm' },
  ];
  const layout = path.join(directory, 'layout');
  const config = { Env: ['PATH=/usr/bin:/bin'], Entrypoint: ['node'], Cmd: ['/app/hello.mjs'], WorkingDir: '/app' };
  const image = await packImage(layout, 'latest', layers, config, abort.signal);
  const registry = await serveLayout(layout);
  undo.push(() => registry.close());
  const took = (Date.now() - started) / 1000;
  const entries = await countEntries(stage('npm'));
  process.stderr.write(
    `packed node ${process.version} and npm (${entries.toLocaleString('en-US')} files and directories) as ${image.layers.length} layers in ${took.toFixed(1)} s; ` +
      `an embedded registry serves them on ${registry.host}\n`,
  );
  const npmVersion = (
    JSON.parse(
      await readFile(path.join(stage('npm'), NPM_HOME, path.dirname(parts.npm.cli), '../package.json'), 'utf8'),
    ) as {
      version: string;
    }
  ).version;
  return {
    reference: `${registry.host}/demo:latest`,
    commands: async () => [
      ['node', '--version'],
      ['npm', '--version'],
      ['node', '/app/hello.mjs'],
    ],
    verify: async (mountPoint, [node, npm, hello]) => {
      const expected = [process.version, npmVersion, `hello out of a lazy mount, node ${process.version}`];
      for (const [i, output] of [node, npm, hello].entries()) {
        if (output?.trim() !== expected[i])
          throw new Error(`expected "${expected[i]}" out of the mount, got "${output}"`);
      }
      for (const hidden of ['usr/share/doc/node', 'usr/share/doc/.wh.node', `${NPM_HOME}/man/man1`]) {
        if (existsSync(path.join(mountPoint, hidden)))
          throw new Error(`/${hidden} is there, though a layer removes it`);
      }
      const files = ['usr/bin/node', `${NPM_HOME}/package.json`, `${NPM_HOME}/${parts.npm.cli}`];
      for (const file of files) {
        const packed = path.join(stage(file === 'usr/bin/node' ? 'base' : 'npm'), file);
        if ((await sha256File(packed)) !== (await sha256File(path.join(mountPoint, file))))
          throw new Error(`/${file} differs from what was packed`);
      }
      return `the programs' output, two whiteouts, ${files.length} files byte for byte (node among them)`;
    },
  };
}

/** An image that the user names: its own command line if one is given, else the first of some common programs. */
function namedImage(reference: string, command: readonly string[]): Subject {
  const probes = [
    ['node', '--version'],
    ['python3', '--version'],
    ['ruby', '--version'],
    ['java', '-version'],
    ['sh', '-c', 'echo "a shell runs"'],
  ];
  return {
    reference,
    commands: async (mountPoint) => {
      if (command.length > 0) return [command];
      for (const probe of probes) {
        for (const bin of ['usr/local/bin', 'usr/bin', 'bin']) {
          const there = await lstat(path.join(mountPoint, bin, probe[0]!)).catch(() => null);
          if (there) return [probe];
        }
      }
      return []; // an image "from scratch" may have nothing to run: it is only mounted
    },
    verify: async (_mountPoint, outputs) =>
      outputs.length > 0 ? 'the program left with 0' : 'nothing to run was found',
  };
}

const size = (bytes: number): string =>
  bytes < 1e6 ? `${(bytes / 1e3).toFixed(0)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
const percent = (part: number, whole: number): string =>
  `${((100 * part) / whole).toFixed(part / whole < 0.01 ? 2 : 1)} %`;

async function main(reference: string | undefined, command: readonly string[]): Promise<void> {
  const directory = await mkdtemp(path.join(os.tmpdir(), 'clip-demo-'));
  undo.push(() => rm(directory, { recursive: true, force: true }));
  const subject = reference === undefined ? await ownImage(directory) : namedImage(reference, command);

  const clip = path.join(directory, 'demo.clip');
  const mountPoint = path.join(directory, 'mnt');
  await mkdir(mountPoint);
  // The demo has a clipd of its own, which neither needs nor disturbs one that runs here.
  const env = { ...process.env, CLIP_ROOT: path.join(directory, 'run'), CLIP_CACHE_DIR: path.join(directory, 'cache') };
  const clipctlShown = async (...args: string[]): Promise<Output> =>
    await show(`clipctl ${args.join(' ')}`, process.execPath, [clipctl, ...args], env);
  const clipctlQuiet = (...args: string[]): string => {
    const done = spawnSync(process.execPath, [clipctl, ...args], { encoding: 'utf8', env });
    if (done.status !== 0) throw new Error(done.stderr.trim());
    return done.stdout;
  };
  const counters = (): Counters => (JSON.parse(clipctlQuiet('stats', '--json')) as { counters: Counters }).counters;

  const indexed = await clipctlShown('index', '--image', subject.reference, '--out', clip);
  const inspected = JSON.parse(clipctlQuiet('inspect', '--clip', clip, '--json')) as Inspected;
  const compressed = inspected.layers.reduce((sum, layer) => sum + layer.size, 0);
  const indexSize = (await stat(clip)).size;

  undo.push(() => void clipctlQuiet('daemon', '--stop')); // unmounts its mounts
  const mounted = await clipctlShown('mount', '--clip', clip, '--at', mountPoint);

  const inside = { ...DEFAULT_ENVIRONMENT, ...environmentOf(inspected) };
  const outputs: string[] = [];
  let firstOutput = 0;
  let first: Counters | null = null;
  for (const words of await subject.commands(mountPoint)) {
    const line = `chroot ${mountPoint} ${words.join(' ')}`;
    const ran = await show(line, findProgram('chroot') ?? 'chroot', [mountPoint, ...words], inside);
    process.stderr.write(ran.stdout);
    outputs.push(ran.stdout);
    firstOutput ||= mounted.seconds + ran.firstOutput;
    first ??= counters();
  }
  const all = counters();
  const verified = await subject.verify(mountPoint, outputs);
  await clipctlShown('umount', mountPoint);

  const fetched = (c: Counters): string => `${percent(bytesOf(c), compressed)} of the image, ${c.requests} requests`;
  const rows: [string, string, string][] = [
    [
      'image, compressed',
      size(compressed),
      `${inspected.layers.length} layer${inspected.layers.length === 1 ? '' : 's'}, ${inspected.inodes.toLocaleString('en-US')} files, ${inspected.reference}`,
    ],
    ['index (.clip)', size(indexSize), `${percent(indexSize, compressed)} of the image`],
    ['time to index', `${indexed.seconds.toFixed(2)} s`, 'once per image'],
    ['time to mount', `${mounted.seconds.toFixed(2)} s`, 'clipd started by it'],
  ];
  if (first) {
    rows.push(['time to first output', `${firstOutput.toFixed(2)} s`, 'mount, then the first program']);
    rows.push(['fetched by then', size(bytesOf(first)), fetched(first)]);
  }
  rows.push(['fetched in all', size(bytesOf(all)), fetched(all)]);
  const widths = [0, 1].map((i) => Math.max(...rows.map((row) => row[i]!.length)));
  process.stdout.write('\n');
  for (const [name, value, remark] of rows)
    process.stdout.write(`${name.padEnd(widths[0]!)}  ${value.padStart(widths[1]!)}  ${remark}\n`);
  process.stdout.write(`\nverified: ${verified}\n`);
}

const DEFAULT_ENVIRONMENT = { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', HOME: '/root' };

/** The environment that the image sets for its programs. */
function environmentOf({ config }: Inspected): Record<string, string> {
  const pairs = (config.Env ?? []).map((pair) => /^([^=]+)=(.*)$/s.exec(pair));
  return Object.fromEntries(pairs.flatMap((match) => (match === null ? [] : [[match[1]!, match[2]!]])));
}

interface Counters {
  readonly demandBytes: number;
  readonly readaheadBytes: number;
  readonly prefetchBytes: number;
  readonly requests: number;
}

function bytesOf(c: Counters): number {
  return c.demandBytes + c.readaheadBytes + c.prefetchBytes;
}

interface Inspected {
  readonly reference: string;
  readonly config: { readonly Env?: readonly string[] };
  readonly inodes: number;
  readonly layers: readonly { readonly size: number }[];
}

const lacks = await missing();
if (lacks.length > 0) {
  process.stderr.write(`demo: missing:\n${lacks.map((l) => `  - ${l}\n`).join('')}`);
  process.exitCode = 1;
} else {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      abort.abort(new Error(`ended by ${signal}`));
    });
  }
  const [reference, ...command] = process.argv.slice(2);
  try {
    await main(reference, command);
  } catch (error) {
    const cause: unknown = abort.signal.aborted ? abort.signal.reason : error;
    process.stderr.write(`demo: ${cause instanceof Error ? cause.message : String(cause)}; taking everything away\n`);
    process.exitCode = 1;
  } finally {
    await cleanUp();
  }
}
