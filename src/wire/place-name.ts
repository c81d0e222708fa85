/** A path of another mount namespace, as clipd and its users say it: "mnt:[4026532281]/mnt/py". */
const FOREIGN = /^(mnt:\[\d+\])(\/.*)$/s;

/** An absolute path, or one of another mount namespace. */
export function isPlaceName(name: string): boolean {
  return name.startsWith('/') || FOREIGN.test(name);
}

/** @param namespace "mnt:[4026532281]" */
export function foreignName(namespace: string, path: string): string {
  return namespace + path;
}

/** The two parts of such a name; null for a path of clipd's own mount namespace. */
export function foreignParts(name: string): { readonly namespace: string; readonly path: string } | null {
  const match = FOREIGN.exec(name);
  return match === null ? null : { namespace: match[1]!, path: match[2]! };
}
