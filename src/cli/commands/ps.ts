import type { Command } from 'commander';
import type { MountInfoReply } from '../../daemon/index.js';
import { addRootFlags, locate, type RootFlags } from '../daemon-flags.js';
import { printResult } from '../output.js';

const NAMES = { image: 'the image', profile: 'its profile', paths: 'files' } as const;

function fetching({ what, bytes }: MountInfoReply['prefetches'][number]): string {
  return `fetching ${NAMES[what]}: ${Math.floor((100 * bytes.done) / Math.max(1, bytes.total))} %`;
}

async function ps(flags: RootFlags): Promise<void> {
  const { ClipdClient, NotRunningError } = await import('../../daemon/index.js');
  const client = new ClipdClient((await locate(flags)).root);
  // No clipd, no mounts: an empty list is the true answer.
  const mounts = await client.mounts().catch((error: unknown) => {
    if (error instanceof NotRunningError) return [];
    throw error;
  });
  printResult(mounts, flags.json === true, () =>
    mounts
      .map(({ mountPoint, reference, archivePath, prefetches }) => {
        const running = prefetches.filter((one) => one.state === 'running').map(fetching);
        return [mountPoint, reference, archivePath, ...running].join('\t');
      })
      .join('\n'),
  );
}

export function registerPs(program: Command): void {
  const command = program.command('ps').alias('list').description('list mounts: place, image, archive');
  addRootFlags(command).action(ps);
}
