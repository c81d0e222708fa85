import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const script = fileURLToPath(new URL('../support/many-files.js', import.meta.url));

function run(count: number): { peak: number; image: number; inodes: number } {
  return JSON.parse(execFileSync(process.execPath, [script, String(count)], { encoding: 'utf8' })) as ReturnType<
    typeof run
  >;
}

// docs/architecture.md, "What an index build goes through": 300 MB + 400 B per file. The difference of
// two runs is the memory of the files: columns, tree and image.
test('half a million files cost at most 400 bytes of memory each, and 130 of image', () => {
  const few = run(20_000);
  const many = run(520_000);
  expect(many.inodes).toBeGreaterThan(520_000);
  expect(few.peak).toBeLessThan(200e6);
  expect((many.peak - few.peak) / 500_000).toBeLessThan(400);
  expect(many.image / many.inodes).toBeLessThan(130);
});
