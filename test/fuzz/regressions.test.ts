import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { mutate } from './mutate.js';
import { Random } from './random.js';
import { loadTarget, TARGETS } from './target.js';

const root = fileURLToPath(new URL('../../../test/fuzz/regressions/', import.meta.url));

// A second of fuzzing, always the same one, and every input that ever failed.
describe.each(TARGETS.filter((name) => existsSync(new URL(`./${name}.js`, import.meta.url))))(
  'fuzz target %s',
  (name) => {
    test('stands its corpus and the first few hundred mutations of it', async () => {
      const target = await loadTarget(name);
      const corpus = await target.corpus();
      expect(corpus.length).toBeGreaterThan(0);
      for (const input of corpus) await target.execute(input);
      const random = new Random(1);
      const count = target.mutationsInTests ?? 300;
      for (let i = 0; i < count; i++) await target.execute(mutate(random.pick(corpus), corpus, random));
      if (target.mutate)
        for (let i = 0; i < count; i++) await target.execute(target.mutate(random.pick(corpus).slice(), random));
      await target.close?.();
    });

    const directory = path.join(root, name);
    test.each(existsSync(directory) ? readdirSync(directory) : [])('stands %s', async (file) => {
      const target = await loadTarget(name);
      await target.execute(new Uint8Array(readFileSync(path.join(directory, file))));
      await target.close?.();
    });
  },
);
