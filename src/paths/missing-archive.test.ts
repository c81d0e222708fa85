import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { endsAsFile, missingArchive, similarArchive, typingDistance } from './missing-archive.js';

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'clip-missing-'));
  for (const name of ['python.clip', 'py.clip', 'old.rclip', 'a.clip', 'notes.txt'])
    writeFileSync(join(directory, name), '');
});
afterAll(() => rmSync(directory, { recursive: true }));

test.each([
  ['', '', 0],
  ['clip', 'clip', 0],
  ['clp', 'clip', 1],
  ['clipp', 'clip', 1],
  ['klip', 'clip', 1],
  ['cilp', 'clip', 1],
  ['plic', 'clip', 2],
  ['', 'clip', 4],
  ['abcdef', 'badcfe', 3],
])('typing distance of %j and %j: %i', (a, b, distance) => {
  expect(typingDistance(a, b)).toBe(distance);
  expect(typingDistance(b, a)).toBe(distance);
});

test('a file is known by its ending, with one mistake in that of an archive', () => {
  const files = ['py.clip', 'py.rclip', 'py.clp', 'py.cilp', 'py.clips', 'py.rclp', 'a/py.tar', 'py.tar.gz', 'py.tgz'];
  expect(files.filter((name) => !endsAsFile(name))).toEqual([]);
  const images = ['python', 'rocket.chat', 'team/app', 'node.js', 'a.b/py', 'py.', 'clip', 'my.pip', 'my.chat'];
  expect(images.filter(endsAsFile)).toEqual([]);
});

test.each([
  ['py.clp', 'py.clip'],
  ['pyton.clip', 'python.clip'],
  ['pyhton.clip', 'python.clip'],
  ['old.clip', 'old.rclip'],
  ['pi.clip', 'py.clip'],
  ['node.clip', null],
  ['x.clip', 'a.clip'],
  ['py.clip', null],
  ['nowhere/py.clip', null],
])('beside %s there is %s', (name, found) => {
  expect(similarArchive(join(directory, name))).toBe(found === null ? null : join(directory, found));
});

test('what to do about an archive that is not there', () => {
  const hint = (path: string): string | undefined => missingArchive(path, null).hint;
  expect(hint(join(directory, 'pyton.clip'))).toBe(`did you mean ${join(directory, 'python.clip')}?`);
  expect(hint('/nowhere/py.clip')).toMatch(
    /^check the path, or make it: clipctl index IMAGE --out \/nowhere\/py\.clip$/,
  );
  expect(hint('/nowhere/py.clp')).toMatch(/^check the path: archives end in \.clip/);
  expect(hint('/nowhere/py')).toMatch(/^check the path/);
  expect(hint('nowhere.tar')).toMatch(/docker-archive:nowhere\.tar/);
  expect(hint('host:5000/team/py:1')).toMatch(/by --image host:5000\/team\/py:1$/);
});
