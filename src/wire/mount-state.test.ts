import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { OwnDirectory } from '../paths/index.js';
import {
  type ConnectionState,
  DEFAULT_IMAGE_OPTIONS,
  forgetPlace,
  loadState,
  STATE_FILE,
  saveState,
} from './mount-state.js';

let root: OwnDirectory;
beforeEach(() => {
  root = OwnDirectory.open(mkdtempSync(join(tmpdir(), 'clip-state-')));
});
afterEach(() => {
  rmSync(root.path, { recursive: true });
  root.close();
});

const place = (path: string) => ({ path, suid: false, dev: false, requestId: path, mountedAt: 1 });
const connection = (id: number, ...paths: string[]): ConnectionState => ({
  id,
  identity: `sha256:${id}`,
  archivePath: `/images/${id}.clip`,
  anchor: `/run/clip/mnt/${id}`,
  places: paths.map(place),
  options: DEFAULT_IMAGE_OPTIONS,
  detached: false,
});

test('what is saved is loaded; no file is an empty list; nothing else stays', () => {
  expect(loadState(root)).toEqual([]);
  saveState(root, [connection(1, '/a', '/b'), connection(2)]);
  expect(loadState(root)).toEqual([connection(1, '/a', '/b'), connection(2)]);
  expect(readdirSync(root.path)).toEqual(['mounts.json']);
});

test.each([
  ['another format', '{"format":2,"connections":[]}', /mount list of format 2, 1 expected/],
  ['no JSON', '{"format":1,', /not a mount list/],
  ['something else', 'null', /mount list of format undefined/],
  ['a damaged entry', '{"format":1,"connections":[{"id":1}]}', /damaged mount list/],
])('%s is refused and left alone', (_name, text, message) => {
  writeFileSync(join(root.path, STATE_FILE), text);
  expect(() => loadState(root)).toThrow(message);
  forgetPlace(root, '/a');
  expect(readFileSync(join(root.path, STATE_FILE), 'utf8')).toBe(text);
});

test('forgetting a place drops its connection with the last one', () => {
  saveState(root, [connection(1, '/a', '/b'), connection(2, '/c')]);
  forgetPlace(root, '/a');
  forgetPlace(root, '/c');
  expect(loadState(root)).toEqual([connection(1, '/b')]);
});
