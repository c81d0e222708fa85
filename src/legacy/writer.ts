import type { S3Location } from '../archive/index.js';
import { HEADER_SIZE } from './format.js';
import { GobWriter } from './gob/index.js';
import { encodeHeader } from './header.js';
import { type LegacyNode, NODE, writable } from './node.js';
import { encodeS3Info } from './storage-info.js';

/** The index section. Nodes in the order of their paths, which is what the Go program expects. */
export function encodeIndex(nodes: readonly LegacyNode[]): Uint8Array {
  // One at a time: all of them as records for the encoder would take more memory than the nodes themselves.
  const records = {
    length: nodes.length,
    *[Symbol.iterator]() {
      for (const node of nodes) yield writable(node);
    },
  };
  return new GobWriter().write({ slice: NODE }, records).finish();
}

/** What ends a local archive whose data ends at `position`: the index. And the header to be written in front when all else is there. */
export function localEnd(nodes: readonly LegacyNode[], position: number): { index: Uint8Array; header: Uint8Array } {
  const index = encodeIndex(nodes);
  const info = { position: 0, length: 0 };
  return { index, header: encodeHeader({ index: { position, length: index.length }, info, storage: 'local' }) };
}

/** An `.rclip`: the index of a local archive, and where that archive was uploaded to. */
export function s3Archive(index: Uint8Array, location: S3Location): Uint8Array[] {
  const info = encodeS3Info(location);
  const at = HEADER_SIZE + index.length;
  const header = encodeHeader({
    index: { position: HEADER_SIZE, length: index.length },
    info: { position: at, length: info.length },
    storage: 's3',
  });
  return [header, index, info];
}
