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
    ['JSON text ("{}")', Buffer.from('{}')],
    ['JSON text ("[1, 2]")', Buffer.from('\n [1, 2]')],
    ['an HTML or XML page ("<!DOCTYPE html>")', Buffer.from('<!DOCTYPE html>')],
    ['plain text ("#!/bin/sh\\n")', Buffer.from('#!/bin/sh\n')],
    [`plain text ("${'x'.repeat(40)}…")`, Buffer.from('x'.repeat(600))],
    ['an unknown format (begins with 00)', Buffer.alloc(1)],
    ['an unknown format (begins with )', Buffer.alloc(0)],
    ['an unknown format (begins with 613a1b5b306d)', Buffer.from('a:\x1b[0m')],
    ['an unknown format (begins with ff00ff)', Buffer.from('ff00ff', 'hex')],
  ])('%s', (expected, head) => {
    expect(describeContent(head)).toBe(expected);
  });

  test('a character that is cut at the end is text', () => {
    expect(describeContent(Buffer.from('größer').subarray(0, 3))).toBe('plain text ("gr")');
  });

  test('C1 and bidi characters do not reach the terminal', () => {
    expect(describeContent(Buffer.from('a\u009b31m'))).toMatch(/^an unknown format/);
    expect(describeContent(Buffer.from('a\u202eb'))).toMatch(/^an unknown format/);
  });
});
