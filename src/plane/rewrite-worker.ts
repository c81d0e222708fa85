/** Reads an archive's tree and writes it anew, for the kernel. A thread of its own: a million files take seconds. */
import { parentPort, workerData } from 'node:worker_threads';
import { ClipError } from '../bytes/index.js';
import { rewriteErofs } from '../erofs/index.js';

export interface RewriteTask {
  readonly tree: SharedArrayBuffer;
  readonly layerBytes: readonly number[];
}

export type RewriteResult = { readonly image: Uint8Array<ArrayBuffer> } | { readonly refused: string };

function rewrite({ tree, layerBytes }: RewriteTask): RewriteResult {
  try {
    return { image: rewriteErofs(new Uint8Array(tree), layerBytes) };
  } catch (error) {
    if (error instanceof ClipError) return { refused: error.message };
    throw error;
  }
}

const result = rewrite(workerData as RewriteTask);
parentPort!.postMessage(result, 'image' in result ? [result.image.buffer] : []);
