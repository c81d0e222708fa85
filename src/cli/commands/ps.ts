import type { Command } from 'commander';
import { listedPlaces, type MountInfoReply } from '../../wire/index.js';
import type { CommonFlags } from '../common-flags.js';
import { locate } from '../daemon-flags.js';
import { printResult } from '../output.js';
import { printable } from '../printable.js';

const NAMES = { image: 'the image', profile: 'its profile', paths: 'files' } as const;

function fetching({ what, bytes }: MountInfoReply['prefetches'][number]): string {
  return `fetching ${NAMES[what]}: ${Math.floor((100 * bytes.done) / Math.max(1, bytes.total))} %`;
}

async function noteDead(root: string): Promise<void> {
  const dead = listedPlaces(root);
  if (dead.length === 0) return;
  process.stderr.write(
    `clipctl: note: no clipd runs with root ${root}, and its mounts are dead: ${dead.map(printable).join(', ')}\n` +
      '  clipctl mount or clipctl daemon restores them, clipctl umount DIR removes one\n',
  );
}

async function ps(flags: CommonFlags): Promise<void> {
  const { ClipdClient, NotRunningError } = await import('../../client/index.js');
  const { root } = await locate(flags);
  const client = new ClipdClient(root);
  // No clipd, no mounts: an empty list is the true answer. A note names its dead mounts.
  const mounts = await client.mounts().catch(async (error: unknown) => {
    if (!(error instanceof NotRunningError)) throw error;
    await noteDead(root);
    return [];
  });
  printResult(mounts, flags.json === true, () =>
    mounts
      .map(({ mountPoint, reference, archivePath, prefetches }) => {
        const running = prefetches.filter((one) => one.state === 'running').map(fetching);
        return [mountPoint, reference, archivePath].map(printable).concat(running).join('\t');
      })
      .join('\n'),
  );
}

export function registerPs(program: Command): void {
  const command = program.command('ps').alias('list').description('list mounts: place, image, archive');
  command.action(ps);
}
