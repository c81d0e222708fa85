const SLASH = 0x2f;
const DOT = 0x2e;

/** Positions of a path's names in its arena: pairs of start and end. */
export type Components = number[];

export function isDot(arena: Uint8Array, start: number, end: number): boolean {
  return end - start === 1 && arena[start] === DOT;
}

export function isDotDot(arena: Uint8Array, start: number, end: number): boolean {
  return end - start === 2 && arena[start] === DOT && arena[start + 1] === DOT;
}

/** Splits at slashes, without empty names and ".". If `lexical`, ".." removes the name before it; else it stays. */
export function splitPath(arena: Uint8Array, start: number, end: number, lexical: boolean, into: Components): void {
  into.length = 0;
  let from = start;
  for (let i = start; i <= end; i++) {
    if (i < end && arena[i] !== SLASH) continue;
    if (i > from && !isDot(arena, from, i)) {
      if (lexical && isDotDot(arena, from, i)) {
        // At the root ".." is the root.
        into.length = Math.max(0, into.length - 2);
      } else into.push(from, i);
    }
    from = i + 1;
  }
}

/** Bytes of the path that these names make, with a slash behind each. */
export function pathLength(components: Components): number {
  let length = 0;
  for (let c = 0; c < components.length; c += 2) length += components[c + 1]! - components[c]! + 1;
  return length;
}

export function startsWith(arena: Uint8Array, start: number, end: number, prefix: Uint8Array): boolean {
  if (end - start < prefix.length) return false;
  for (let i = 0; i < prefix.length; i++) if (arena[start + i] !== prefix[i]) return false;
  return true;
}

export function equalBytes(
  a: Uint8Array,
  aStart: number,
  aEnd: number,
  b: Uint8Array,
  bStart: number,
  bEnd: number,
): boolean {
  if (aEnd - aStart !== bEnd - bStart) return false;
  for (let i = aStart, j = bStart; i < aEnd; i++, j++) if (a[i] !== b[j]) return false;
  return true;
}
