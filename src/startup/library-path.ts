const TRIPLETS: Readonly<Record<string, string>> = {
  amd64: 'x86_64-linux-gnu',
  arm64: 'aarch64-linux-gnu',
  arm: 'arm-linux-gnueabihf',
  '386': 'i386-linux-gnu',
  ppc64le: 'powerpc64le-linux-gnu',
  riscv64: 'riscv64-linux-gnu',
};

/** Where programs of all packages are, in the usual order of PATH. */
export const PROGRAM_DIRECTORIES = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'];

/** Debian's name for an architecture in paths; null for an architecture that Debian does not have. */
export function tripletOf(architecture: string): string | null {
  return TRIPLETS[architecture] ?? null;
}

/** The dynamic loader's default directories for libraries, as Debian, Fedora and Alpine set them up. */
export function libraryDirectories(architecture: string): string[] {
  const triplet = tripletOf(architecture);
  const multiarch = triplet === null ? [] : [`/lib/${triplet}`, `/usr/lib/${triplet}`];
  return [...multiarch, '/lib64', '/usr/lib64', '/lib', '/usr/lib', '/usr/local/lib'];
}

/** The paths where the loader looks for `name` for a file in the directory `origin`, in its order. */
export function libraryCandidates(
  name: string,
  searchPath: readonly string[],
  origin: string,
  directories: readonly string[],
): string[] {
  if (name.includes('/')) return [name];
  const own = searchPath.map((directory) => directory.replaceAll(/\$(ORIGIN|\{ORIGIN\})/g, origin));
  return [...own, ...directories].map((directory) => `${directory}/${name}`);
}
