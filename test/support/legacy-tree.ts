import { lstat, readFile, readlink } from 'node:fs/promises';
import { expect } from 'vitest';
import type { ExpectedNode } from './legacy.js';
import { sha256Of as sha256 } from './mounted.js';

/** A path of an old archive below a mount: names are bytes. */
export const at = (root: string, path: string): Buffer =>
  Buffer.concat([Buffer.from(root), Buffer.from(path, 'latin1')]);

/** Everything that lstat, readlink and read show, against what the Go program's own reader says. */
export async function compareTree(
  root: string,
  nodes: readonly ExpectedNode[],
  content: (node: ExpectedNode) => string | null,
): Promise<void> {
  for (const node of nodes) {
    const file = at(root, node.path);
    const stat = await lstat(file, { bigint: true });
    const type = stat.isDirectory() ? 'dir' : stat.isSymbolicLink() ? 'symlink' : 'file';
    const found = {
      path: node.path,
      type,
      mode: Number(stat.mode & 0o7777n),
      uid: Number(stat.uid),
      gid: Number(stat.gid),
      mtime: stat.mtimeNs,
    };
    const { mode, uid, gid } = node;
    const mtime = BigInt(node.mtime) * 1_000_000_000n + BigInt(node.mtimeNsec);
    expect(found).toEqual({ path: node.path, type: node.type, mode, uid, gid, mtime });
    if (type === 'symlink') expect((await readlink(file, 'buffer')).toString('latin1')).toBe(node.target);
    if (type !== 'file') continue;
    expect(Number(stat.size)).toBe(node.size);
    const bytes = await readFile(file);
    expect(bytes).toHaveLength(node.size);
    const hash = content(node);
    if (hash !== null) expect({ path: node.path, hash: sha256(bytes) }).toEqual({ path: node.path, hash });
  }
}
