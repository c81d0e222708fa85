import { randomBytes } from 'node:crypto';
import { type FileHandle, open, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { AbortError, anyFunction, boolean, ClipError, checked, fields, string } from '../bytes/index.js';
import { checkWritable } from '../index/index.js';
import { localEnd } from '../legacy/index.js';
import type { PackJob, PackResult } from './pack-protocol.js';
import { type PackedFile, scanTree } from './scan.js';
import { jobsOf, PackWorkers } from './workers.js';

export interface CreateArchiveOptions {
  /** The directory to pack. */
  readonly inputPath: string;
  /** The archive. Appears, or is replaced, by rename once it is complete. */
  readonly outputPath: string;
  /** Leave out what the format cannot hold, with a warning, instead of refusing the tree. Default false. */
  readonly skipUnsupported?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Bytes of content that are packed, and all there are. */
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
  const tree = scanTree(root, options.skipUnsupported === true ? onSkipped : null);
  const temporary = join(
    dirname(outputPath),
    `.${basename(outputPath)}.${process.pid}.${randomBytes(4).toString('hex')}.tmp`,
  );
  const workers = new PackWorkers();
  try {
    const out = await open(temporary, 'wx', 0o644);
    try {
      await packFiles(tree.files, tree.contentBytes, out.fd, workers, options);
      const { index, header } = localEnd(tree.nodes, tree.end);
      await writeAt(out, index, tree.end);
      // Last: a file that was not written to its end is no archive.
      await writeAt(out, header, 0);
      signal?.throwIfAborted();
      await rename(temporary, outputPath);
      return {
        outputPath,
        size: tree.end + index.length,
        nodes: tree.nodes.length,
        files: tree.files.length,
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

async function packFiles(
  files: readonly PackedFile[],
  total: number,
  out: number,
  workers: PackWorkers,
  { signal, onProgress }: CreateArchiveOptions,
): Promise<void> {
  const items = files.map(({ path, size, dev, ino, position }, index) => ({ index, path, size, dev, ino, position }));
  const jobs = jobsOf(items).map((job): PackJob => ({ type: 'pack', out, items: job }));
  let done = 0;
  const onResult = (job: number, { hashes, bytes, problems, failure }: PackResult): void => {
    if (failure !== null) throw new ClipError('SYSTEM', `the archive cannot be written: ${failure.detail}`);
    const [problem] = problems;
    if (problem !== undefined) {
      throw new ClipError('SYSTEM', `${files[problem.index]!.path.toString()} ${problem.detail}`, {
        hint: 'pack the tree when nothing writes to it',
      });
    }
    for (const [i, { index }] of jobs[job]!.items.entries()) {
      const hash = Buffer.from(Buffer.from(hashes.subarray(32 * i, 32 * i + 32)).toString('hex'), 'latin1');
      for (const node of files[index]!.nodes) node.contentHash = hash;
    }
    done += bytes;
    onProgress?.(done, total);
  };
  await workers.run(jobs, onResult, signal);
}
