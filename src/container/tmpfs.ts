/** "/run:size=64m,mode=755" → its path and its options. */
export function splitTmpfs(text: string): readonly [path: string, options: readonly string[]] {
  const colon = text.indexOf(':');
  if (colon < 0) return [text, []];
  const options = text.slice(colon + 1).split(',');
  return [text.slice(0, colon), options.filter((option) => option !== '')];
}
