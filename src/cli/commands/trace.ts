import { closeSync, openSync, writeSync } from 'node:fs';
import type { Command } from 'commander';
import { ClipError, counted, printableJson } from '../../bytes/index.js';
import type { CommonFlags } from '../common-flags.js';
import { locate } from '../daemon-flags.js';
import { mountedPlace } from '../mounted-place.js';
import { printNote } from '../output.js';

interface Flags extends CommonFlags {
  readonly record?: string;
}

function openRecord(path: string): number {
  try {
    // It tells which programs read which files.
    return openSync(path, 'w', 0o600);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new ClipError(code === 'ENOENT' ? 'NOT_FOUND' : 'PERMISSION', `cannot write ${path}: ${code}`, { cause });
  }
}

async function trace(target: string, flags: Flags): Promise<void> {
  const { ClipdClient, traceReads } = await import('../../client/index.js');
  const client = new ClipdClient((await locate(flags)).root);
  const place = await mountedPlace(target, flags);
  const mount = (await client.mounts()).find(({ mountPoint }) => mountPoint === place);
  if (mount === undefined) {
    throw new ClipError('NOT_FOUND', `${target} is not a clip mount of this clipd`, { hint: 'clipctl ps lists them' });
  }
  const record = flags.record === undefined ? null : openRecord(flags.record);
  let reads = 0;
  let dropped = 0;
  const running = await traceReads(client, mount, (read) => {
    if ('dropped' in read) dropped += read.dropped;
    else reads++;
    const line = printableJson(read, 0);
    if (record === null) process.stdout.write(`${line}\n`);
    else writeSync(record, `${line}\n`);
  });
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => running.stop());
  if (record !== null) printNote(null, `recording the reads of ${place} into ${flags.record}: Ctrl-C ends it`);
  await running.ended;
  if (dropped > 0) printNote('warning', `${counted(dropped, 'read')} came too fast and are missing`);
  if (record === null) return;
  closeSync(record);
  printNote(null, `${counted(reads, 'read')}`);
}

export function registerTrace(program: Command): void {
  program
    .command('trace')
    .argument('<dir|id>', 'a mount point or a container')
    .description('print each read that has to wait for its bytes, as a line of JSON, until Ctrl-C')
    .option('--record <file>', 'write the lines to a file')
    .action(trace);
}
