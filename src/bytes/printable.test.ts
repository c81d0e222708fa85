import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { printable, printableJson, printableText } from './printable.js';

/** Clears the screen, sets a colour (C1 form), turns the writing direction, hides, ends a line where JavaScript does. */
const HOSTILE = '\u001b[2J\u009b31m\u202e\u200b\u2028\u007f';
// biome-ignore lint/suspicious/noControlCharactersInRegex: the test is about them
const UNSAFE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/;

describe('text from an image on a terminal', () => {
  it('escapes what controls a terminal in a name, line ends and tabs too', () => {
    expect(printable('a\tb\nc\u001bd')).toBe('a\\011b\\012c\\033d');
    expect(printable(HOSTILE)).not.toMatch(UNSAFE);
    expect(printable('naïve 日本語')).toBe('naïve 日本語');
  });

  it('escapes bytes that are not UTF-8, one by one', () => {
    expect(printable(Uint8Array.of(0x61, 0xff, 0xc3, 0x28))).toBe('a\\377\\303(');
  });

  it('keeps lines and columns of a text', () => {
    expect(printableText(`a\tb\n${HOSTILE}`)).toBe(
      'a\tb\n\\033[2J\\302\\23331m\\342\\200\\256\\342\\200\\213\\342\\200\\250\\177',
    );
  });

  it('writes JSON that reads back as it was, and that no terminal obeys', () => {
    void fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 40 }), (text) => {
        const value = { [text]: `${text}${HOSTILE}` };
        const json = printableJson(value, 2);
        expect(JSON.parse(json)).toEqual(value);
        expect(json).not.toMatch(UNSAFE);
      }),
    );
  });
});
