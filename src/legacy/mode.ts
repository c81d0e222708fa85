import {
  GoMode,
  NodeType,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  S_IFSOCK,
  S_ISGID,
  S_ISUID,
  S_ISVTX,
} from './format.js';

/** What a node that says "file" may be: the Go program passes its mode to the kernel as it is. */
const FILE_TYPES: readonly number[] = [S_IFREG, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK];

const type = (nodeType: string, mode: number): number => {
  if (nodeType === NodeType.directory) return S_IFDIR;
  if (nodeType === NodeType.symlink) return S_IFLNK;
  return FILE_TYPES.includes(mode & S_IFMT) ? mode & S_IFMT : S_IFREG;
};

/**
 * st_mode of a node. Until 2024 the program stored Go's os.FileMode or-ed with S_IF*: set-uid, set-gid and sticky are then bits above
 * the sixteen that the kernel ever saw. Type bits that contradict the node's own type are not believed.
 */
export function statMode(nodeType: string, mode: number): number {
  let special = mode & (S_ISUID | S_ISGID | S_ISVTX);
  if ((mode & GoMode.setuid) !== 0) special |= S_ISUID;
  if ((mode & GoMode.setgid) !== 0) special |= S_ISGID;
  if ((mode & GoMode.sticky) !== 0) special |= S_ISVTX;
  return type(nodeType, mode) | special | (mode & 0o777);
}
