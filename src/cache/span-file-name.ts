import { encodedTableDigest } from '../archive/index.js';

/** Beside each layer file, with this suffix, lies the span table that its bytes are judged by. */
export const TABLE_SUFFIX = '.table';

const SPAN_FILE = /^([0-9a-f]{32,128})\.([0-9a-f]{64})$/;

export interface SpanFileName {
  /** "sha256:…" of the blob. */
  readonly layer: string;
  /** SHA-256 of the span table in hex: archives may cut one layer in different ways. */
  readonly table: string;
}

/**
 * The name of a layer file, which is the key of all bytes in it: the layer's digest and that of the span table, in hex. The
 * table covers all that the output of a span depends on (docs/format.md, "3: spans"), so archives that agree on it share the file.
 * @param encoded the table's canonical form
 */
export function spanFileName(digest: string, encoded: Uint8Array): string {
  return `${digest.slice(digest.indexOf(':') + 1)}.${encodedTableDigest(encoded)}`;
}

/** The parts of a name; null when it is no layer file's. */
export function parseSpanFileName(name: string): SpanFileName | null {
  const match = SPAN_FILE.exec(name);
  return match === null ? null : { layer: `sha256:${match[1]}`, table: match[2]! };
}

/** True when `encoded` is the span table of the layer file at `path`. */
export function isTableOf(path: string, encoded: Uint8Array): boolean {
  return path.endsWith(`.${encodedTableDigest(encoded)}`);
}
