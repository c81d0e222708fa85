import { expect, test } from 'vitest';
import { tortureRegistries } from '../../bench/registry-torture.js';

test('readers get the right bytes through some hundred faults of three registries', async () => {
  const verdicts = await tortureRegistries({ faults: 240, readers: 16, awayMs: 500 });
  expect(verdicts.length).toBe(3);
  for (const verdict of verdicts) {
    expect(verdict).toMatchObject({ wrongBytes: 0, failedReads: [], cachedRequests: 0 });
    expect(verdict.requests, JSON.stringify(verdict)).toBeLessThanOrEqual(verdict.requestBound);
    expect(Object.keys(verdict.faults).length).toBeGreaterThan(5);
  }
}, 180_000);
