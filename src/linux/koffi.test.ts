import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { KOFFI_VERSION, loadKoffi } from './koffi.js';

const project = new URL('../../../package.json', import.meta.url);

it('knows the version that package.json pins', () => {
  const { dependencies } = JSON.parse(readFileSync(project, 'utf8')) as { dependencies: Record<string, string> };
  expect(dependencies.koffi).toBe(KOFFI_VERSION);
});

it('calls the C library', () => {
  const koffi = loadKoffi();
  expect(koffi.version).toBe(KOFFI_VERSION);
  expect(koffi.load(null).func('getpid', 'int', [])()).toBe(process.pid);
});
