import { randomBytes } from 'node:crypto';
import { type FileHandle, open, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { AbortError, anyFunction, boolean, ClipError, checked, fields, string, toHex } from '../bytes/index.js';
import { checkWritable } from '../index/index.js';
import { localEnd } from '../legacy/index.js';
import type { PackColumns, PackResult } from './pack-protocol.js';
import { type PackedFile, TreeScan, text } from './scan.js';
import { jobsOf, PackWorkers } from './workers.js';

export interface CreateArchiveOptions {
  /** The directory to pack. */
  readonly inputPath: string;
  /** The archive. Appears, or is replaced, by rename once it is complete. */
  readonly outputPath: string;
  /** Leave out what the format cannot hold, with a warning, instead of refusing the tree. Default false. */
  readonly skipUnsupported?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Bytes of content that are packed, and all there are. Called once the tree has been walked, while packing goes on. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
  readonly onWarning?: ((warning: string) => void) | undefined;
}

export interface CreateArchiveResult {
  readonly outputPath: string;
  /** Bytes of the archive. */
  readonly size: number;
  /** Names in the tree, and files with content of their own among them. */
  readonly nodes: number;
  readonly files: number;
  readonly contentBytes: number;
  readonly warnings: readonly string[];
  readonly milliseconds: number;
}

export const signalOption = checked<AbortSignal>('an AbortSignal', (value) => value instanceof AbortSignal);

const checkOptions = fields(
  { inputPath: string, outputPath: string },
  { skipUnsupported: boolean, signal: signalOption, onProgress: anyFunction, onWarning: anyFunction },
);

/**
 * Packs a directory into a local archive of version 1, which the Go program reads too: data, modes, owners, times, hard links,
 * devices. The same tree gives the same data in the same order.
 * @throws ClipError naming the path; then `outputPath` is as it was
 */
export async function createArchive(options: CreateArchiveOptions): Promise<CreateArchiveResult> {
  checkOptions(options, 'createArchive: options');
  const started = performance.now();
  const { outputPath, signal } = options;
  await checkWritable(outputPath);
  const root = resolve(options.inputPath);
  if (!(await stat(root).catch(() => null))?.isDirectory()) {
    throw new ClipError('NOT_FOUND', `${options.inputPath} is not a directory`, { hint: 'give the directory to pack' });
  }
  const warnings: string[] = [];
  const onSkipped = (what: string): void => {
    warnings.push(what);
    options.onWarning?.(what);
  };
  const tree = new TreeScan(root, options.skipUnsupported === true ? onSkipped : null);
  const temporary = join(
    dirname(outputPath),
    `.${basename(outputPath)}.${process.pid}.${randomBytes(4).toString('hex')}.tmp`,
  );
  const workers = new PackWorkers();
  try {
    const out = await open(temporary, 'wx', 0o644);
    try {
      await packFiles(tree, out.fd, workers, options);
      const nodes = tree.sorted();
      const { index, header } = localEnd(nodes, tree.end);
      await writeAt(out, index, tree.end);
      // Last: a file that was not written to its end is no archive.
      await writeAt(out, header, 0);
      signal?.throwIfAborted();
      await rename(temporary, outputPath);
      return {
        outputPath,
        size: tree.end + index.length,
        nodes: nodes.length,
        files: tree.files,
        contentBytes: tree.contentBytes,
        warnings,
        milliseconds: Math.round(performance.now() - started),
      };
    } finally {
      await workers.close();
      await out.close();
    }
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => {}); // the first error is the one to tell
    if (signal?.aborted) throw new AbortError(`packing ${root}`, signal);
    if (error instanceof ClipError) throw error;
    throw new ClipError('SYSTEM', `cannot write ${outputPath}: ${(error as NodeJS.ErrnoException).code ?? error}`, {
      cause: error,
    });
  }
}

async function writeAt(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += (await file.write(bytes, done, bytes.length - done, position + done)).bytesWritten;
  }
}

function columnsOf(files: readonly PackedFile[]): PackColumns {
  return {
    paths: Buffer.concat(files.map(({ path }) => path)),
    size: Float64Array.from(files, ({ size }) => size),
    dev: BigUint64Array.from(files, ({ dev }) => dev),
    ino: BigUint64Array.from(files, ({ ino }) => ino),
    position: Float64Array.from(files, ({ position }) => position),
  };
}

async function packFiles(
  tree: TreeScan,
  out: number,
  workers: PackWorkers,
  { signal, onProgress }: CreateArchiveOptions,
): Promise<void> {
  let done = 0;
  const take = (files: readonly PackedFile[], { hashes, bytes, problems, failure }: PackResult): void => {
    if (failure !== null) throw new ClipError('SYSTEM', `the archive cannot be written: ${failure.detail}`);
    const [problem] = problems;
    if (problem !== undefined) {
      throw new ClipError('SYSTEM', `${text(files[problem.index]!.path)} ${problem.detail}`, {
        hint: 'pack the tree when nothing writes to it',
      });
    }
    const hex = Buffer.from(toHex(hashes), 'latin1');
    for (const [i, { nodes }] of files.entries()) {
      for (const node of nodes) node.contentHash = hex.subarray(64 * i, 64 * i + 64);
    }
    done += bytes;
    // Before, it is not known how much there is.
    if (tree.complete) onProgress?.(done, tree.contentBytes);
  };
  const jobs = function* (): Iterable<Parameters<PackWorkers['run']>[0] extends Iterable<infer J> ? J : never> {
    for (const files of jobsOf(tree.walk())) {
      yield { job: { type: 'pack', out, files: columnsOf(files) }, take: (result) => take(files, result) };
    }
  };
  await workers.run(jobs(), signal);
}
