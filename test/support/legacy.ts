import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** Archives that the Go program made at four points of its history; their README says which is what. Beside the project's folder. */
export const LEGACY = fileURLToPath(new URL('../../../../shared/fixtures/legacy', import.meta.url));

export const LOCAL = ['local-2023-06', 'local-2023-08', 'local-2024-06', 'local-2026-05'] as const;
export const S3 = ['s3-2023-06', 's3-2024-06', 's3-2026-05'] as const;
export const OCI = ['oci-2025-11', 'oci-2026-05'] as const;

export function fixture(name: string): string {
  return `${LEGACY}/${name}.${name.startsWith('s3') ? 'rclip' : 'clip'}`;
}

export interface ExpectedNode {
  readonly type: 'dir' | 'file' | 'symlink';
  /** latin1: one character a byte. */
  readonly path: string;
  /** Permissions with set-uid, set-gid and sticky. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly mtime: number;
  readonly mtimeNsec: number;
  readonly nlink: number;
  readonly ino: string;
  readonly target: string;
  readonly hash: string;
  readonly dataPos: number;
  readonly dataLen: number;
}

/** The nodes of a fixture, as the Go program's own reader decoded them. */
export function expectedNodes(name: string): ExpectedNode[] {
  const [, ...lines] = readFileSync(`${LEGACY}/${name}.json`, 'utf8').trim().split('\n');
  return lines.map((line): ExpectedNode => {
    const node = JSON.parse(line.replace(/"Ino": (\d+)/, '"Ino": "$1"'));
    const { Attr } = node;
    // Bits of Go's os.FileMode: 23 set-uid, 22 set-gid, 20 sticky.
    const special = [23, 22, 20].map((bit, i) => ((Attr.Mode >>> bit) & 1) << (11 - i));
    return {
      type: node.NodeType,
      path: node.PathBase64 === undefined ? utf8(node.Path) : Buffer.from(node.PathBase64, 'base64').toString('latin1'),
      mode: (Attr.Mode & 0o7777) | special.reduce((a, b) => a | b),
      uid: Attr.Uid,
      gid: Attr.Gid,
      size: Attr.Size,
      mtime: Attr.Mtime,
      mtimeNsec: Attr.Mtimensec,
      nlink: Attr.Nlink,
      ino: Attr.Ino,
      target: utf8(node.Target),
      hash: node.ContentHash,
      dataPos: node.DataPos,
      dataLen: node.DataLen,
    };
  });
}

const utf8 = (text: string): string => Buffer.from(text, 'utf8').toString('latin1');
