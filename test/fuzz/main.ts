// npm run fuzz -- TARGET [--minutes N] [--seed N] [--coverage]
//
// Mutates the target's corpus for N minutes (default 1). An input that makes it throw, or run for longer than 20 s, is kept in
// test/fuzz/regressions/TARGET/, where regressions.test.ts finds it; the exit code is then 1. With --coverage inputs that run new
// code join the corpus; without it, those that have a new outcome, which is several times as fast.
import { createHash } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';
import { MAX_INPUT_BYTES, TARGETS } from './target.js';

const HANG_SECONDS = 20;
const REPORT_MS = 10_000;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    minutes: { type: 'string', default: '1' },
    seed: { type: 'string', default: '' },
    coverage: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});
const name = positionals[0] ?? '';
const minutes = Number(values.minutes);
if (values.help || positionals.length !== 1 || !(TARGETS as readonly string[]).includes(name) || !(minutes > 0)) {
  const out = values.help ? process.stdout : process.stderr;
  out.write(`usage: npm run fuzz -- ${TARGETS.join('|')} [--minutes N] [--seed N] [--coverage]\n`);
  process.exit(values.help ? 0 : 2);
}
const firstSeed = values.seed === '' ? Date.now() % 0x100000000 : Number(values.seed);
// This file runs from dist/test/fuzz; its finds belong beside its source.
const regressions = fileURLToPath(new URL(`../../../test/fuzz/regressions/${name}/`, import.meta.url));

let failures = 0;
function keep(kind: string, input: Uint8Array, text: string): void {
  failures++;
  mkdirSync(regressions, { recursive: true });
  const file = `${regressions}${kind}-${createHash('sha256').update(input).digest('hex').slice(0, 12)}.bin`;
  writeFileSync(file, input);
  process.stderr.write(`${kind}: ${input.length} bytes, kept as ${file}\n${text}\n`);
}

const start = Date.now();
const until = start + minutes * 60_000;
let executions = 0;

/** Runs the loop until the time is up, or it hangs or dies. */
function session(seed: number): Promise<void> {
  const shared = new SharedArrayBuffer(8 + MAX_INPUT_BYTES);
  const progress = new Int32Array(shared, 0, 2);
  const worker = new Worker(new URL('./worker.js', import.meta.url), {
    workerData: { name, seed, until, shared, guided: values.coverage },
  });
  const underTest = (): Uint8Array => new Uint8Array(shared, 8, Math.max(0, Atomics.load(progress, 1))).slice();
  return new Promise((resolve) => {
    let last = -1;
    /** Seconds without an end of an execution, by this timer: a process that is stopped for a while hangs in nothing. */
    let idle = 0;
    let reported = start;
    const timer = setInterval(() => {
      const now = Date.now();
      const count = Atomics.load(progress, 0);
      if (now - reported >= REPORT_MS) {
        reported = now;
        const total = executions + count;
        process.stderr.write(
          `${name}: ${total} executions, ${Math.round(total / ((now - start) / 1000))}/s, ${failures} failures\n`,
        );
      }
      if (count !== last || Atomics.load(progress, 1) < 0) {
        last = count;
        idle = 0;
      } else if (++idle > HANG_SECONDS) {
        idle = 0;
        keep('hang', underTest(), `one execution took longer than ${HANG_SECONDS} s (seed ${seed})`);
        void worker.terminate();
      }
    }, 1000);
    worker.on(
      'message',
      (message: { type: string; input: Uint8Array; text: string; corpus: number; words: number; blocks: number }) => {
        if (message.type === 'failure') keep('crash', message.input, `${message.text} (seed ${seed})`);
        else {
          const blocks = values.coverage ? `, ${message.blocks} blocks of code` : '';
          process.stderr.write(
            `${name}: corpus ${message.corpus} inputs, ${message.words} different outcomes${blocks}\n`,
          );
        }
      },
    );
    worker.on('error', (error) =>
      keep('abort', underTest(), `the thread died: ${error.stack ?? error.message} (seed ${seed})`),
    );
    worker.on('exit', () => {
      clearInterval(timer);
      executions += Atomics.load(progress, 0);
      resolve();
    });
  });
}

/** A target that cannot even start would be restarted for ever. */
const MAX_SESSIONS = 20;
for (let i = 0; i < MAX_SESSIONS && (i === 0 || Date.now() < until); i++) await session((firstSeed + i) >>> 0);
const seconds = (Date.now() - start) / 1000;
process.stdout.write(
  `${name}: ${executions} executions in ${seconds.toFixed(0)} s, ${Math.round(executions / seconds)}/s, first seed ${firstSeed}, ${failures} failures\n`,
);
process.exitCode = failures > 0 ? 1 : 0;
