// The fuzzing loop, in a thread of its own so that main.ts can see it hang.
import { parentPort, workerData } from 'node:worker_threads';
import { Coverage } from './coverage.js';
import { mutate } from './mutate.js';
import { Random } from './random.js';
import { loadTarget, MAX_INPUT_BYTES } from './target.js';

/** Inputs that showed something new are kept up to this many; beyond it a random one makes way. */
const MAX_CORPUS = 4000;
/** Report a failure of one kind once. */
const seen = new Set<string>();

const { name, seed, until, shared, guided } = workerData as {
  name: string;
  /** Inputs that run new code join the corpus, not only those with a new outcome. */
  guided: boolean;
  seed: number;
  until: number;
  shared: SharedArrayBuffer;
};
/** [0] executions, [1] length of the input under test (or -1). */
const progress = new Int32Array(shared, 0, 2);
const current = new Uint8Array(shared, 8);

/** Inputs between two looks at the coverage, each of which takes some milliseconds. */
const BATCH = 32;
/** One batch in this number is looked at input by input: for blocks that have run before, but not as often. */
const LOOK_CLOSELY = 16;

const coverage = guided ? new Coverage() : null;
const target = await loadTarget(name);
const random = new Random(seed);
const corpus = (await target.corpus()).filter((input) => input.length <= MAX_INPUT_BYTES);
const seeds = corpus.length;
if (seeds === 0) throw new Error(`fuzz target ${name} has no corpus`);
const words = new Set<string>();

function keep(input: Uint8Array): void {
  if (corpus.length < MAX_CORPUS) corpus.push(input);
  else corpus[seeds + random.below(MAX_CORPUS - seeds)] = input;
}

async function execute(input: Uint8Array, grow: boolean): Promise<void> {
  current.set(input);
  Atomics.store(progress, 1, input.length);
  try {
    const word = await target.execute(input);
    if (typeof word === 'string' && !words.has(word)) {
      words.add(word);
      if (grow) keep(input);
    }
  } catch (error) {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    // Numbers vary with the input, the place does not.
    const kind = text.replace(/\d+/g, '#').slice(0, 300);
    if (!seen.has(kind)) {
      seen.add(kind);
      parentPort?.postMessage({ type: 'failure', input: input.slice(), text });
    }
  }
  Atomics.store(progress, 1, -1);
  Atomics.add(progress, 0, 1);
}

function mutated(): Uint8Array {
  const input = random.pick(corpus);
  const changed =
    target.mutate !== undefined && random.chance(2)
      ? target.mutate(input.slice(), random)
      : mutate(input, corpus, random);
  return changed.length > MAX_INPUT_BYTES ? changed.slice(0, MAX_INPUT_BYTES) : changed;
}

for (const input of corpus.slice()) {
  await execute(input, false);
  coverage?.addNew();
}
while (Date.now() < until) {
  const batch: Uint8Array[] = [];
  for (let i = 0; i < BATCH && Date.now() < until; i++) {
    const input = mutated();
    batch.push(input);
    await execute(input, coverage === null);
  }
  if (coverage === null || !(coverage.hasNew() || random.chance(LOOK_CLOSELY))) continue;
  for (const input of batch) {
    await execute(input, false);
    if (coverage.addNew()) keep(input);
  }
}
await target.close?.();
parentPort?.postMessage({ type: 'done', corpus: corpus.length, words: words.size, blocks: coverage?.size ?? 0 });
