import { expect, test } from 'vitest';
import { FormatError } from '../bytes/index.js';
import { decodeScan, encodeScan, type LayerScan } from './layer-scan.js';

const SCAN: LayerScan = {
  checkpointMiB: 1,
  references: {
    elf: [
      {
        entry: 2,
        needs: {
          interpreter: '/lib/ld.so',
          needed: ['libc.so.6'],
          searchPath: ['$ORIGIN'],
          segments: [{ offset: 0, fileSize: 2 ** 60, writable: false }],
          parts: [0, 64],
          complete: true,
          strings: 'cc1 /usr/lib/gcc/',
          functions: 'setlocale',
          relocated: [64, 4096],
        },
      },
    ],
    scripts: [{ entry: 1, line: '#!/bin/sh' }],
    checked: true,
  },
  names: [{ entry: 0, language: 'python', names: ['os', 'a b c'] }],
  warnings: ['a warning'],
  unhashed: 3,
};

test('a scan comes back as it was', () => {
  expect(decodeScan(encodeScan(SCAN), 'test', 3)).toEqual(SCAN);
});

test('a scan of another version is none', () => {
  expect(decodeScan(Buffer.from('{"version":0}'), 'test', 3)).toBeNull();
});

test('an entry that the layer does not have is refused', () => {
  expect(() => decodeScan(encodeScan(SCAN), 'test', 2)).toThrow('entry 2 of 2');
});

test('every value of another kind is refused', () => {
  const walk = (value: unknown, change: (other: unknown) => void): void => {
    const others = [{}, 'text', -1, [{}]].filter((other) => typeof other !== typeof value || Array.isArray(other));
    for (const other of others) change(other);
    if (Array.isArray(value))
      for (const [i, item] of value.entries()) walk(item, (other) => change(value.with(i, other)));
  };
  const scan = JSON.parse(Buffer.from(encodeScan(SCAN)).toString()) as Record<string, unknown>;
  let refused = 0;
  for (const [key, value] of Object.entries(scan)) {
    if (key === 'version') continue;
    walk(value, (other) => {
      expect(() => decodeScan(Buffer.from(JSON.stringify({ ...scan, [key]: other })), 'test', 3)).toThrow(FormatError);
      refused++;
    });
  }
  expect(refused).toBeGreaterThan(60);
  expect(() => decodeScan(Buffer.from('{'), 'test', 3)).toThrow('not JSON');
  expect(decodeScan(Buffer.from('7'), 'test', 3)).toBeNull();
});
