/**
 * Deeper than any document of OCI's, and far from what exhausts the stack of JSON.stringify, which is recursive: two million brackets
 * fit into an image's config. JSON.parse is not.
 */
const MAX_JSON_DEPTH = 200;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/** JSON text from outside. @throws Error that may quote it, so that callers put their own in its place */
export function parseJson(bytes: Uint8Array): unknown {
  if (hasManyBrackets(bytes) && isDeep(bytes)) throw new Error(`more than ${MAX_JSON_DEPTH} objects in each other`);
  return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
}

/** Fewer brackets cannot be so deep. Found without a loop over the bytes, which V8 interprets in a process that has just begun: 1 ms and more for a config. */
function hasManyBrackets(bytes: Uint8Array): boolean {
  let count = 0;
  for (const bracket of [0x5b, 0x7b]) {
    for (let at = bytes.indexOf(bracket); at >= 0; at = bytes.indexOf(bracket, at + 1)) {
      if (++count > MAX_JSON_DEPTH) return true;
    }
  }
  return false;
}

function isDeep(bytes: Uint8Array): boolean {
  let depth = 0;
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at]!;
    if (byte === QUOTE) at = endOfString(bytes, at);
    else if (byte === 0x5b || byte === 0x7b) {
      if (++depth > MAX_JSON_DEPTH) return true;
    } else if (byte === 0x5d || byte === 0x7d) depth--;
  }
  return false;
}

function endOfString(bytes: Uint8Array, start: number): number {
  for (let at = start + 1; at < bytes.length; at++) {
    if (bytes[at] === BACKSLASH) at++;
    else if (bytes[at] === QUOTE) return at;
  }
  return bytes.length;
}
