/** Longest name and longest symlink target: NAME_MAX, and PATH_MAX without its NUL (limits.h, symlink(2)). */
export const NAME_MAX = 255;
export const SYMLINK_MAX = 4095;
/** Longest path of an entry: PATH_MAX without its NUL. Runtimes name the file by its path, so they cannot make a longer one. */
export const PATH_MAX = 4095;
/** Deepest directory, symlinks on the way followed: a path of PATH_MAX bytes has 2,048 names of one letter. */
export const DEPTH_MAX = 2048;
/** Symlinks followed for one path, as in the kernel (MAXSYMLINKS). */
export const FOLLOW_MAX = 40;
/**
 * Names looked at in one layer, for each entry and on average: paths in real layers have about ten. Without a limit each entry
 * could walk 40 symlinks of 2,048 names.
 */
export const STEPS_PER_ENTRY = 1000;
/**
 * Directories of one layer that only paths name: this number, and some for each entry. A layer without entries for directories has
 * about as many directories as files. The base lets a small layer have a few paths of any depth. Without a limit 1,000 paths,
 * which compress to some ten kilobytes, make two million directories of 100 bytes each in the archive.
 */
export const IMPLIED_BASE = 65_536;
export const IMPLIED_PER_ENTRY = 4;
