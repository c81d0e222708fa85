import type { LegacyNode } from '../../src/legacy/index.js';

/** A node of a version 1 archive: a file of root's without data, but for what is given. */
export const legacyNode = (path: string, fields: Partial<LegacyNode> = {}): LegacyNode => ({
  nodeType: 'file',
  path: Buffer.from(path),
  ino: 0,
  size: fields.dataLen ?? 0,
  mtime: 0,
  mtimeNsec: 0,
  mode: 0o100644,
  nlink: 1,
  uid: 0,
  gid: 0,
  rdev: 0,
  target: new Uint8Array(0),
  contentHash: new Uint8Array(0),
  dataPos: 0,
  dataLen: 0,
  remote: null,
  ...fields,
});
