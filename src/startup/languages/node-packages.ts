import { hasAt, Words } from '../text-search.js';

/** What is used of a package.json. */
export interface PackageFile {
  readonly name: string | null;
  readonly main: string | null;
  readonly exports: unknown;
  readonly imports: unknown;
}

/** Nested conditions of real packages are 4 deep. */
const MAX_DEPTH = 16;
/** Keys of one `exports` that are looked at. */
const MAX_KEYS = 4096;
const CONDITIONS = {
  r: new Set(['node', 'node-addons', 'require', 'default']),
  i: new Set(['node', 'node-addons', 'import', 'default']),
};
/** Asked for by `require`, or by `import`. */
export type RequestKind = keyof typeof CONDITIONS;

const WORDS = new Words('"nam', '"mai', '"exp', '"imp');
const KEYS = ['"name"', '"main"', '"exports"', '"imports"'].map((key) => Buffer.from(key));
const [NAME, MAIN] = [0, 1];
const [QUOTE, BACKSLASH, OPEN, CLOSE] = [0x22, 0x5c, 0x7b, 0x7d];
/** Of the text behind "main". */
const MAX_MAIN = 300;

/** A package.json in the form in which it is kept in a scan; null for one that is damaged or tells nothing. */
export function packageText(json: Buffer): string | null {
  return plainPackage(json) ?? parsedPackage(json.toString('utf8'));
}

/** Most files, without being parsed: those that say nothing about exports and imports, where a name does not matter. */
function plainPackage(json: Buffer): string | null {
  let [named, main] = [false, -1];
  for (const hit of WORDS.find(json)) {
    const [at, key] = [Words.position(hit), Words.number(hit)];
    if (!hasAt(json, at, KEYS[key]!)) continue;
    if (key > MAIN || (key === MAIN && main >= 0)) return null;
    if (key === NAME) named = true;
    else main = at;
  }
  if (main < 0) return named ? '{}' : null;
  const value = /^"main"\s*:\s*("[^"\\\p{Cc}]*")/u.exec(json.toString('utf8', main, main + MAX_MAIN))?.[1];
  return value === undefined || depthAt(json, main) !== 1 ? null : `{"main":${value}}`;
}

/** How many objects are open at a place in JSON. */
function depthAt(json: Buffer, end: number): number {
  let [depth, inString] = [0, false];
  for (let at = 0; at < end; at++) {
    const byte = json[at];
    if (byte === QUOTE) inString = !inString;
    else if (inString && byte === BACKSLASH) at++;
    else if (!inString) depth += byte === OPEN ? 1 : byte === CLOSE ? -1 : 0;
  }
  return depth;
}

function parsedPackage(json: string): string | null {
  try {
    const { name, main, exports, imports } = Object(JSON.parse(json)) as Record<string, unknown>;
    const used = JSON.stringify({ name, main, exports, imports });
    return used === '{}' ? null : used;
  } catch {
    return null;
  }
}

export function readPackage(text: string | undefined): PackageFile {
  let json: Record<string, unknown> = {};
  try {
    json = Object(JSON.parse(text ?? '{}')) as Record<string, unknown>;
  } catch {
    // of another program: as if nothing was said
  }
  const string = (value: unknown): string | null => (typeof value === 'string' ? value : null);
  const { exports = null, imports = null } = json;
  // A number is no map of exports to Node 22, and one without a target to Node 20: the files may be asked for either way.
  const used = typeof exports === 'number' ? null : exports;
  return { name: string(json.name), main: string(json.main), exports: used, imports };
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/**
 * The target of a subpath ("." or "./sub") in a package's `exports`, or of "#name" in its `imports`: a relative path, or for `imports`
 * also another package. Null if there is none. Node's documentation, "Resolution Algorithm Specification":
 * PACKAGE_EXPORTS_RESOLVE, PACKAGE_IMPORTS_EXPORTS_RESOLVE.
 */
export function mappedTarget(map: unknown, subpath: string, kind: RequestKind): string | null {
  // `exports` may be the target of "." itself.
  const keyed = isObject(map) && /^[.#]/.test(Object.keys(map)[0] ?? '');
  if (!keyed) return subpath === '.' ? target(map, null, kind, 0) : null;
  if (Object.hasOwn(map, subpath) && !subpath.includes('*')) return target(map[subpath], null, kind, 0);
  let [best, match] = ['', ''];
  for (const key of Object.keys(map).slice(0, MAX_KEYS)) {
    const star = key.indexOf('*');
    if (star < 0 || !subpath.startsWith(key.slice(0, star)) || subpath.length < key.length) continue;
    const trailer = key.slice(star + 1);
    if (!subpath.endsWith(trailer) || trailer.includes('*')) continue;
    // PATTERN_KEY_COMPARE: the longest part before the star, then the longest key.
    const bestStar = best.indexOf('*');
    if (best !== '' && (star < bestStar || (star === bestStar && key.length <= best.length))) continue;
    best = key;
    match = subpath.slice(star, subpath.length - trailer.length);
  }
  return best === '' ? null : target(map[best], match, kind, 0);
}

/** PACKAGE_TARGET_RESOLVE. */
function target(value: unknown, match: string | null, kind: RequestKind, depth: number): string | null {
  if (depth > MAX_DEPTH) return null;
  if (typeof value === 'string') return match === null ? value : value.replaceAll('*', () => match);
  if (Array.isArray(value)) {
    for (const item of value.slice(0, MAX_KEYS)) {
      const found = target(item, match, kind, depth + 1);
      if (found !== null) return found;
    }
    return null;
  }
  if (!isObject(value)) return null;
  for (const [condition, inner] of Object.entries(value)) {
    if (!CONDITIONS[kind].has(condition)) continue;
    const found = target(inner, match, kind, depth + 1);
    // A condition without a target for this case leaves the others; an explicit null does not.
    if (found !== null || inner === null) return found;
  }
  return null;
}
