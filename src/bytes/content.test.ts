import { describe, expect, test } from 'vitest';
import { describeContent } from './index.js';

describe('describeContent', () => {
  test.each([
    ['bzip2', Buffer.from('BZh91AY&SY')],
    ['xz', Buffer.from('fd377a585a000004', 'hex')],
    ['lz4', Buffer.from('04224d18', 'hex')],
    ['zip', Buffer.from('504b0304', 'hex')],
    ['an ELF program', Buffer.from('7f454c4602010100', 'hex')],
    ['gzip', Buffer.from('1f8b0800', 'hex')],
    ['JSON text', Buffer.from('{}')],
    ['JSON text', Buffer.from('\n [1, 2]')],
    ['an HTML or XML page', Buffer.from('<!DOCTYPE html>')],
    ['plain text', Buffer.from('#!/bin/sh\n')],
    ['plain text', Buffer.from('x'.repeat(600))],
    ['an unknown format', Buffer.alloc(1)],
    ['an unknown format', Buffer.alloc(0)],
    ['an unknown format', Buffer.from('a:\x1b[0m')],
    ['an unknown format', Buffer.from('ff00ff', 'hex')],
  ])('%s', (expected, head) => {
    expect(describeContent(head)).toBe(expected);
  });

  test('a character that is cut at the end is text', () => {
    expect(describeContent(Buffer.from('größer').subarray(0, 3))).toBe('plain text');
  });

  test('C1 and bidi characters do not reach the terminal', () => {
    expect(describeContent(Buffer.from('a\u009b31m'))).toBe('an unknown format');
    expect(describeContent(Buffer.from('a\u202eb'))).toBe('an unknown format');
  });
});
