import { once } from 'node:events';
import type { Command } from 'commander';
import type { SourceAccess } from '../../archives/index.js';
import { printableText } from '../../bytes/index.js';
import { locate } from '../daemon-flags.js';
import { addImageFlags, archiveOf, type ImageFlags, withDataPlace } from '../image-flags.js';
import { indexOldLayers } from '../old-layers.js';
import { archiveOrImage } from '../operand.js';
import { printResult } from '../output.js';
import { credentialsFrom } from '../registry-flags.js';
import { addStorageFlags, type StorageFlags, storageOverride } from '../storage-flags.js';
import { interruptible } from './index-command.js';

/** Read and written at once: enough for most files, and little memory. */
const PIECE_BYTES = 32 * 1024 * 1024;

type Flags = ImageFlags & StorageFlags;

/** How the data of an archive is reached. */
async function accessOf(archive: string, flags: Flags): Promise<SourceAccess> {
  const { readArchiveOrigin } = await import('../../check/index.js');
  const credentials = credentialsFrom(flags);
  const isS3 = credentials !== undefined && readArchiveOrigin(archive).storage.kind === 's3';
  const { username = '', password = '' } = credentials ?? {};
  return {
    credentials: isS3 ? { accessKeyId: username, secretAccessKey: password } : credentials,
    plainHttp: flags.plainHttp,
    storageInfo: storageOverride(flags),
  };
}

async function run(path: string, given: Flags): Promise<void> {
  const [{ listFiles, readFile }, { createProgress, showBytes }] = await Promise.all([
    import('../../archives/index.js'),
    import('../progress.js'),
  ]);
  await interruptible(async (signal) => {
    const archive = await archiveOf(given, signal);
    const flags = await withDataPlace(given, archive);
    await indexOldLayers(archive, flags, signal);
    const { cacheDir: cachePath } = await locate(flags);
    const options = { ...(await accessOf(archive, flags)), cachePath, signal };
    const read = (offset: number): Promise<Uint8Array> =>
      readFile(archive, path, { ...options, offset, length: PIECE_BYTES });
    if (flags.json === true) {
      const bytes = await readFile(archive, path, options);
      printResult({ path, size: bytes.length, base64: Buffer.from(bytes).toString('base64') }, true, () => '');
      return;
    }
    const [entry] = listFiles(archive, { path });
    // A bar would stand among what a terminal shows of the file.
    const progress = await createProgress(process.stdout.isTTY ? 'none' : undefined);
    const onBytes = showBytes(progress, path, path);
    try {
      for (let offset = 0; ; ) {
        onBytes(offset, entry?.size ?? 0);
        const bytes = await read(offset);
        // A terminal is not controlled by what an image holds.
        const out = process.stdout.isTTY ? printableText(Buffer.from(bytes).toString()) : bytes;
        if (!process.stdout.write(out)) await once(process.stdout, 'drain');
        offset += bytes.length;
        if (bytes.length === PIECE_BYTES) continue;
        onBytes(offset, offset);
        return;
      }
    } finally {
      progress.stop();
    }
  });
}

export function registerCat(program: Command): void {
  const command = program
    .command('cat')
    .description('print a file of an archive without mounting it')
    .addArgument(archiveOrImage())
    .argument('<path>', 'the file in the image');
  addStorageFlags(addImageFlags(command)).action(run);
}
