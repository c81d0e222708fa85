import { execFileSync } from 'node:child_process';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { globMatcher } from './glob-matcher.js';

/** What bash says of each pair of a name and a pattern. (In dash "[^a]" means something else than in glob(3) of glibc.) */
function asked(pairs: readonly (readonly [string, string])[]): boolean[] {
  const script = 'while [ $# -gt 0 ]; do case $1 in $2) echo y ;; *) echo n ;; esac; shift 2; done';
  const said = execFileSync('bash', ['-c', script, 'bash', ...pairs.flat()], {
    encoding: 'utf8',
    env: { ...process.env, LC_ALL: 'C' },
  });
  return said
    .trim()
    .split('\n')
    .map((line) => line === 'y');
}

test.each([
  ['*.conf', ['a.conf', '.conf', 'a.conf.bak', 'conf', '']],
  ['[a-c]?*', ['ab', 'a', 'dab', 'cxyz']],
  ['[!0-9]*[.]d', ['x.d', '1.d', 'xd', 'x.dd.d']],
  ['[]x]', [']', 'x', 'y']],
  ['a[', ['a[', 'a']],
  ['[a-]', ['-', 'a', 'b']],
  ['**a**', ['a', 'bab', 'b']],
])('%s matches what a shell says', (pattern, names) => {
  const matches = globMatcher(pattern);
  expect(names.map(matches)).toEqual(asked(names.map((name) => [name, pattern])));
});

test('any pattern of stars, marks, lists and letters matches what a shell says', () => {
  const part = fc.constantFrom('*', '?', 'a', 'b', '.', '[ab]', '[!a]', '[a-b.]', '[^b]');
  const pair = fc.tuple(
    fc.array(fc.constantFrom('a', 'b', '.', '-'), { maxLength: 8 }).map((letters) => letters.join('')),
    fc.array(part, { minLength: 1, maxLength: 7 }).map((parts) => parts.join('')),
  );
  fc.assert(
    fc.property(fc.array(pair, { minLength: 100, maxLength: 400 }), (pairs) => {
      expect(pairs.map(([name, pattern]) => globMatcher(pattern)(name))).toEqual(asked(pairs));
    }),
    { numRuns: 20 },
  );
});

test('a pattern of many stars takes no longer than its length', () => {
  const started = performance.now();
  expect(globMatcher(`${'*a'.repeat(100)}b`)('a'.repeat(255))).toBe(false);
  expect(globMatcher(`${'*?'.repeat(100)}b`)('a'.repeat(255))).toBe(false);
  expect(performance.now() - started).toBeLessThan(1000);
});
