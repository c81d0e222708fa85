import { createRequire } from 'node:module';
import { expect, test } from 'vitest';
import { preloadTransport } from './transport.js';

test('requests need only part of undici, and no more is loaded', async () => {
  await preloadTransport();
  const loaded = Object.keys(createRequire(import.meta.url).cache);
  expect(loaded.some((file) => file.endsWith('/undici/lib/dispatcher/agent.js'))).toBe(true);
  expect(loaded.some((file) => file.endsWith('/undici/index.js'))).toBe(false);
});
