// npm run bench [-- NAME…] [--json] [--write]: runs the suites and holds each figure against its target.
// --write puts their tables into docs/benchmarks.md and draws its plots; --plots only draws them.
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { bigImage, nodeImage, pythonImage } from './images.js';
import { replaceTable, table, verdicts } from './report.js';
import type { BenchContext, Suite, SuiteResult } from './support.js';

/** A suite is loaded when it runs: it may need root, a kernel feature or packages that others do not. */
const SUITES: Readonly<Record<string, () => Promise<{ run: Suite }>>> = {
  inflate: () => import('./inflate.js'),
  index: () => import('./index.js'),
  'index-network': () => import('./index-network.js'),
  fuse: () => import('./fuse.js'),
  plane: () => import('./plane.js'),
  'plane-mounts': () => import('./plane-mounts.js'),
  mount: () => import('./mount.js'),
  lazy: () => import('./lazy.js'),
  coldstart: () => import('./coldstart.js'),
  starts: () => import('./first-starts.js'),
  fleet: () => import('./fleet.js'),
  checkpoints: () => import('./checkpoints.js'),
  run: () => import('./run.js'),
  unpack: () => import('./unpack.js'),
  legacy: () => import('./legacy.js'),
  'scale-files': async () => ({ run: (await import('./scale.js')).runFiles }),
  'scale-bytes': async () => ({ run: (await import('./scale.js')).runBytes }),
  seeing: () => import('./seeing.js'),
};

const USUAL_LINK = '1000,20';

const HELP = `npm run bench [-- NAME…] [--json] [--write] [--plots] [--only PART,…] [--link MBITS,MS]

suites: ${Object.keys(SUITES).join(' ')}

--only PART,…     parts of a suite; with --write the other rows of its table stay
--link MBITS,MS   of starts and fleet: the link, default ${USUAL_LINK}
--write           puts the tables into docs/benchmarks.md, and draws its plots; --plots only draws them
--json            prints one document

starts, 5 to 8 minutes each:   npm run bench -- starts --write
                               npm run bench -- starts --link 200,20 --write
                               npm run bench -- starts --link 10000,5 --write
on request only, 3 GB fetched: npm run bench -- starts --only torch --write
`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: 'boolean', default: false },
    write: { type: 'boolean', default: false },
    plots: { type: 'boolean', default: false },
    only: { type: 'string' },
    link: { type: 'string', default: USUAL_LINK },
    help: { type: 'boolean', short: 'h', default: false },
  },
});

const unknown = positionals.filter((name) => !(name in SUITES));
if (values.help || unknown.length > 0) {
  if (unknown.length > 0) process.stderr.write(`bench: no such suite: ${unknown.join(', ')}\n`);
  process.stderr.write(HELP);
  process.exit(values.help ? 0 : 2);
}

const page = fileURLToPath(new URL('../../docs/benchmarks.md', import.meta.url));

async function drawPlots(text: string): Promise<void> {
  const directory = path.join(path.dirname(page), 'plots');
  await mkdir(directory, { recursive: true });
  const { plotsOf } = await import('./plots.js');
  for (const [name, svg] of Object.entries(plotsOf(text))) await writeFile(path.join(directory, name), svg);
}
if (values.plots) {
  await drawPlots(await readFile(page, 'utf8'));
  process.exit(0);
}

const undo: (() => Promise<void> | void)[] = [];
async function undoAll(): Promise<void> {
  for (let step = undo.pop(); step; step = undo.pop()) {
    try {
      await step();
    } catch (error) {
      process.stderr.write(`bench: while cleaning up: ${String(error)}\n`);
    }
  }
}
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.once(signal, () => void undoAll().finally(() => process.exit(130)));
}

const log = (line: string): void => void process.stderr.write(`  ${line}\n`);
const defer = (step: () => Promise<void> | void): void => void undo.push(step);

/** An image is made, and its registry started, once for all suites that use it. */
function once<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | null = null;
  return () => {
    made ??= make();
    return made;
  };
}
const [megabits, milliseconds] = values.link.split(',').map(Number);
if (!(megabits! > 0 && milliseconds! >= 0)) throw new Error('--link MBITS,MS: two numbers');
const ctx: BenchContext = {
  only: values.only?.split(',') ?? null,
  link: { bytesPerSecond: megabits! * 125_000, roundTripMs: milliseconds! },
  usualLink: values.link === USUAL_LINK,
  python: once(() => pythonImage({ log, defer })),
  node: once(() => nodeImage({ log, defer })),
  big: once(() => bigImage({ log, defer })),
  scratch: async () => {
    const directory = await mkdtemp(path.join(os.tmpdir(), 'clip-bench-'));
    defer(() => rm(directory, { recursive: true, force: true }));
    return directory;
  },
  defer,
  log,
};

const results: Record<string, SuiteResult | { error: string }> = {};
let missed = 0;
try {
  // The registry of an image outlives the suite that started it; the suite's own things do not.
  for (const name of positionals.length > 0 ? positionals : Object.keys(SUITES)) {
    process.stderr.write(`${name}\n`);
    try {
      const { run } = await SUITES[name]!();
      const result = await run(ctx);
      results[name] = result;
      missed += verdicts(result.rows).missed;
      if (!values.json) process.stdout.write(`${table(name, result)}\n`);
    } catch (error) {
      missed++;
      results[name] = { error: error instanceof Error ? error.message : String(error) };
      process.stderr.write(
        `bench: ${name} failed: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`,
      );
    }
  }
} finally {
  await undoAll();
}
const machine = {
  cpu: os.cpus()[0]?.model ?? '',
  cores: os.cpus().length,
  kernel: os.release(),
  node: process.version,
};
if (values.write) {
  const where = `${machine.cores} × ${machine.cpu}, Linux ${machine.kernel}, Node ${machine.node}, ${new Date().toISOString().slice(0, 10)}`;
  let text = await readFile(page, 'utf8');
  for (const [name, result] of Object.entries(results)) {
    if ('error' in result) continue;
    const block = result.block ?? name;
    const others = values.only === undefined ? '' : text;
    text = replaceTable(text, block, `${table(block, result, others)}\n\n${where}`);
  }
  await writeFile(page, text);
  await drawPlots(text);
}
if (values.json) {
  process.stdout.write(`${JSON.stringify({ machine, date: new Date().toISOString(), results }, null, 2)}\n`);
}
process.exitCode = missed > 0 ? 1 : 0;
