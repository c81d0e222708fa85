import type { Command } from 'commander';
import { addRootFlags, locate, type RootFlags } from '../daemon-flags.js';
import { printResult } from '../output.js';

async function ps(flags: RootFlags): Promise<void> {
  const { ClipdClient, NotRunningError } = await import('../../daemon/index.js');
  const client = new ClipdClient((await locate(flags)).root);
  // No clipd, no mounts: an empty list is the true answer.
  const mounts = await client.mounts().catch((error: unknown) => {
    if (error instanceof NotRunningError) return [];
    throw error;
  });
  printResult(mounts, flags.json === true, () =>
    mounts.map((mount) => `${mount.mountPoint}\t${mount.reference}\t${mount.archivePath}`).join('\n'),
  );
}

export function registerPs(program: Command): void {
  const command = program.command('ps').alias('list').description('list mounts: place, image, archive');
  addRootFlags(command).action(ps);
}
