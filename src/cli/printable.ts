/**
 * A name for a terminal, or for a table with one line per row: control characters and bytes that are not UTF-8 become \ooo. A name
 * must neither control the terminal nor break the table.
 */
export function printable(text: string | Uint8Array): string {
  const name = typeof text === 'string' ? Buffer.from(text) : text;
  const octal = (byte: number): string => `\\${byte.toString(8).padStart(3, '0')}`;
  const decoder = new TextDecoder('utf-8', { fatal: true });
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
    // Cc and Cf: controls, and format characters such as those that turn the writing direction.
    if (character === null || /[\p{Cc}\p{Cf}]/u.test(character)) {
      out += octal(first);
      i += 1;
    } else {
      out += character;
      i += length;
    }
  }
  return out;
}
