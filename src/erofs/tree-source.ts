/** The tree that the writer writes: inodes and names by number. A `Tree` of layers is one. */
export interface TreeSource {
  readonly root: number;
  /** Inode numbers are below this. They need not be dense. */
  readonly inodeLimit: number;
  readonly stats: {
    readonly directories: number;
    readonly overlayXattrs: number;
    readonly whiteoutDevices: number;
    readonly namelessEntries: number;
  };
  /** A directory's children are child(childStart) … child(childEnd − 1), sorted bytewise by name. */
  childStart(directory: number): number;
  childEnd(directory: number): number;
  childInode(index: number): number;
  childNameArena(index: number): Uint8Array;
  childNameStart(index: number): number;
  childNameLength(index: number): number;
  mode(inode: number): number;
  isDirectory(inode: number): boolean;
  nlink(inode: number): number;
  uid(inode: number): number;
  gid(inode: number): number;
  mtime(inode: number): number;
  mtimeNsec(inode: number): number;
  /** Of regular files. */
  size(inode: number): number;
  rdev(inode: number): number;
  /** Of non-empty regular files: their layer, and where their data begins in it. */
  layer(inode: number): number;
  dataOffset(inode: number): number;
  /** Pairs of offset and length of a sparse file's data, which lies in one stretch of the layer; null: all of the file is data. */
  extents(inode: number): Float64Array | null;
  symlinkLength(inode: number): number;
  symlink(inode: number): Uint8Array;
  xattrs(inode: number): readonly { readonly name: Uint8Array; readonly value: Uint8Array }[];
}
