/** Magic numbers of formats that users push as layers by mistake, or that registries and proxies hand out in place of one. */
const MAGICS: readonly (readonly [string, string])[] = [
  ['bzip2', 'BZh'],
  ['xz', '\xfd7zXZ\0'],
  ['lz4', '\x04"M\x18'],
  ['lzip', 'LZIP'],
  ['7-Zip', "7z\xbc\xaf'\x1c"],
  ['zip', 'PK\x03\x04'],
  ['gzip', '\x1f\x8b'],
  ['zstd', '\x28\xb5\x2f\xfd'],
  ['an ELF program', '\x7fELF'],
  ['a squashfs image', 'hsqs'],
  ['a WebAssembly module', '\0asm'],
  ['a PDF document', '%PDF-'],
  ['a PNG picture', '\x89PNG'],
  ['a SQLite database', 'SQLite format 3\0'],
];

/** Characters that no text has or that control a terminal: control characters other than white space, and format characters (bidi). */
const NO_TEXT = /[^\P{C}\t\n\f\r]/u;

/** The bytes as UTF-8 text, or null if they are not text. The last character may be cut. */
function asText(head: Uint8Array): string | null {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(head, { stream: true });
    return NO_TEXT.test(text) ? null : text;
  } catch {
    return null;
  }
}

/**
 * Names the content that begins with `head`, for errors about bytes of the wrong format: "JSON text", "an ELF program". Some hundred
 * bytes suffice. Nothing of the content itself is said: the author of an archive chooses the file or the host that it comes from, and
 * may be one who cannot read it (docs/security.md, "What errors say").
 */
export function describeContent(head: Uint8Array): string {
  const start = Buffer.from(head.buffer, head.byteOffset, Math.min(head.length, 16)).toString('latin1');
  const known = MAGICS.find(([, magic]) => start.startsWith(magic));
  if (known !== undefined) return known[0];
  const text = asText(head);
  if (text === null || text.trim() === '') return 'an unknown format';
  const trimmed = text.trimStart();
  if (/^[{[]/.test(trimmed)) return 'JSON text';
  return /^<(!doctype|html|\?xml)/i.test(trimmed) ? 'an HTML or XML page' : 'plain text';
}
