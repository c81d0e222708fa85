import type { Command } from 'commander';
import { printable } from '../../bytes/index.js';
import { type ContainerInfo, describeProcesses } from '../../container/index.js';
import { listedPlaces, type MountInfoReply } from '../../wire/index.js';
import type { CommonFlags } from '../common-flags.js';
import { locate } from '../daemon-flags.js';
import { printResult } from '../output.js';
import { formatBytes } from '../units.js';

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

/** A container, and clipd's figures of its image. */
interface ListedContainer extends ContainerInfo {
  readonly mountPoint: string;
  readonly fetchedBytes: number | null;
}

function containerLine(container: ListedContainer): string {
  const { id, reference, archivePath, rootfs, ports, since, state, fetchedBytes, holders } = container;
  return [
    ...[rootfs, reference, archivePath].map(printable),
    `container ${id}`,
    ...(state === 'mounted' ? [] : ['incomplete: clipctl umount --cid takes it down']),
    ...(ports.length === 0 ? [] : [ports.join(', ')]),
    `since ${since}`,
    fetchedBytes === null ? 'its image is not mounted' : `${formatBytes(fetchedBytes)} fetched`,
    holders.length === 0 ? 'not running' : printable(describeProcesses(holders)),
  ].join('\t');
}

/** Nothing where FUSE answers and nothing else was asked for. */
function planeNotes({ plane, options, layers, kernelLayers }: MountInfoReply): string[] {
  const { kind, reason, files } = plane;
  if (kind === 'fuse') return options.plane === 'auto' ? [`FUSE serves it: ${printable(reason)}`] : [];
  if (files.length === layers) return ['the kernel serves it'];
  const through = files.length === 0 ? 'its layers' : `${layers - files.length} of ${layers} layers`;
  const again = kernelLayers > files.length ? '; mounted anew it reads complete ones by itself' : '';
  return [`the kernel serves it, and reads ${through} through clipd${again}`];
}

function mountLine(mount: MountInfoReply): string {
  const { mountPoint, reference, archivePath, prefetches } = mount;
  const running = prefetches.filter((one) => one.state === 'running').map(fetching);
  return [mountPoint, reference, archivePath].map(printable).concat(planeNotes(mount), running).join('\t');
}

async function listContainers(flags: CommonFlags, mounts: readonly MountInfoReply[]): Promise<ListedContainer[]> {
  const { containersOf } = await import('../../container/index.js');
  const { root, cacheDir } = await locate(flags);
  return containersOf(root, cacheDir).map((container) => {
    const mount = mounts.find(({ mountPoint }) => mountPoint === container.place);
    return { ...container, mountPoint: container.rootfs, fetchedBytes: mount?.fetchedBytes ?? null };
  });
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
  const containers = await listContainers(flags, mounts);
  const own = new Set(containers.map(({ place }) => place));
  const places = mounts.filter(({ mountPoint }) => !own.has(mountPoint));
  printResult([...places, ...containers], flags.json === true, () =>
    [...places.map(mountLine), ...containers.map(containerLine)].join('\n'),
  );
}

export function registerPs(program: Command): void {
  const command = program
    .command('ps')
    .alias('list')
    .description('list mounts and containers: place, image, archive, and of containers their state');
  command.action(ps);
}
