/** Controls, format characters (they turn the writing direction, or are invisible), line and paragraph separators. */
const UNSAFE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u;
/** As above, in text of several lines and columns. */
const UNSAFE_IN_TEXT = /(?![\n\t])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;
/** What JSON.stringify leaves of them: DEL, C1 controls, format characters, separators. */
const UNSAFE_IN_JSON = /(?!\n)[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;

const octal = (byte: number): string => `\\${byte.toString(8).padStart(3, '0')}`;

/**
 * A name for a terminal, or for a table with one line per row: unsafe characters and bytes that are not UTF-8 become \ooo. A
 * name must neither control the terminal nor break the table.
 */
export function printable(text: string | Uint8Array): string {
  if (typeof text === 'string' && !UNSAFE.test(text)) return text;
  const name = typeof text === 'string' ? Buffer.from(text) : text;
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  let out = '';
  for (let i = 0; i < name.length; ) {
    const first = name[i]!;
    const length = first < 0x80 ? 1 : first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    let character: string | null = null;
    try {
      character = decoder.decode(name.subarray(i, i + length));
    } catch {
      // not UTF-8: escaped below
    }
    if (character === null || UNSAFE.test(character)) {
      out += octal(first);
      i += 1;
    } else {
      out += character;
      i += length;
    }
  }
  return out;
}

/** Text of several lines for a terminal: all unsafe characters but line ends and tabs become \ooo. */
export function printableText(text: string): string {
  return text.replace(UNSAFE_IN_TEXT, (character) => Array.from(Buffer.from(character), octal).join(''));
}

/** A value as JSON (RFC 8259) that is safe on a terminal too: unsafe characters in its strings are written \uXXXX. */
export function printableJson(value: unknown, indent?: number): string {
  return JSON.stringify(value, null, indent).replace(UNSAFE_IN_JSON, (character) =>
    Array.from(
      { length: character.length },
      (_, i) => `\\u${character.charCodeAt(i).toString(16).padStart(4, '0')}`,
    ).join(''),
  );
}
