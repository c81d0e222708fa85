import type { Command } from 'commander';
import { ClipError } from '../../bytes/index.js';
import type { ClipdClient } from '../../client/index.js';
import { ownMountNamespace, resolvePlace } from '../../wire/index.js';
import type { CommonFlags } from '../common-flags.js';
import { locate } from '../daemon-flags.js';
import { printNote, printResult } from '../output.js';
import { needsOwnProcess } from '../own-process.js';

interface Flags extends CommonFlags {
  readonly force?: boolean;
  readonly lazy?: boolean;
  readonly cid?: string;
}

/** Of a container's mount namespace clipd takes away what it mounted there, and never the host's mount of the same path. */
async function namespaceFor(client: ClipdClient): Promise<{ mountNamespace?: string }> {
  const here = ownMountNamespace();
  const { mountNamespace } = await client.health();
  return mountNamespace === here ? {} : { mountNamespace: here };
}

/** Takes a container down. Done already is done. */
async function umountContainer(id: string, flags: Flags): Promise<void> {
  const { unmountContainer } = await import('../../container/index.js');
  const { root, cacheDir } = await locate(flags);
  const found = await unmountContainer(root, cacheDir, id, { force: flags.force ?? false });
  if (!found) printNote('note', `there is no container ${id}`);
  printResult({ id, found }, flags.json === true, () => '');
}

async function umount(directory: string | undefined, flags: Flags): Promise<void> {
  if (flags.force && flags.lazy) throw new ClipError('USAGE', '--force and --lazy exclude each other');
  if ((directory === undefined) === (flags.cid === undefined)) {
    throw new ClipError('USAGE', 'a mount point or a container is needed, and one only', {
      hint: 'clipctl umount DIR, or --cid ID',
    });
  }
  if (flags.cid !== undefined) {
    needsOwnProcess();
    return umountContainer(flags.cid, flags);
  }
  await umountDirectory(directory!, flags);
}

async function umountDirectory(directory: string, flags: Flags): Promise<void> {
  const { ClipdClient, loadOrphans, NotRunningError } = await import('../../client/index.js');
  const mountPoint = resolvePlace(directory);
  const client = new ClipdClient((await locate(flags)).root);
  const mode = flags.force ? 'force' : flags.lazy ? 'lazy' : 'normal';
  try {
    await client.unmount({ mountPoint, mode, ...(await namespaceFor(client)) });
  } catch (error) {
    // A clip mount without its clipd is dead, and can only be removed.
    const unknown = error instanceof NotRunningError || (error instanceof ClipError && error.code === 'NOT_FOUND');
    if (!unknown) throw error;
    const { unmountOrphan } = await loadOrphans();
    await unmountOrphan(mountPoint);
  }
  printResult({ mountPoint }, flags.json === true, () => '');
}

export function registerUmount(program: Command): void {
  const command = program
    .command('umount')
    .description('unmount an image, or take a container down')
    .argument('[dir]', 'the mount point')
    .option('--cid <id>', 'a container, with all that belongs to it')
    .option('--lazy', 'take it out of the tree now; processes keep the files that they have open')
    .option('--force', 'also when busy; processes get errors for the files that they have open');
  command.action(umount);
}
