/** Figures of one part under the names that `Metrics` has for them: "reads" of the misses is "missReads". */
export function prefixed(prefix: string, values: object): Record<string, number> {
  const named = (name: string): string =>
    prefix.endsWith('.') ? prefix + name : `${prefix}${name[0]!.toUpperCase()}${name.slice(1)}`;
  return Object.fromEntries(
    Object.entries(values as Record<string, number>).map(([name, value]) => [named(name), value]),
  );
}
