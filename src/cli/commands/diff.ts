import type { Command } from 'commander';
import { counted, printable } from '../../bytes/index.js';
import type { CommonFlags } from '../common-flags.js';
import { printResult } from '../output.js';
import { formatBytes, shortDigest } from '../units.js';

async function diff(before: string, after: string, flags: CommonFlags): Promise<void> {
  const { diffArchives } = await import('../../archives/index.js');
  const value = diffArchives(before, after);
  printResult(value, flags.json === true, () => {
    const { layers, added, removed, changed } = value;
    const sum = (sizes: readonly { readonly size: number }[]): string =>
      formatBytes(sizes.reduce((total, { size }) => total + size, 0));
    return [
      ...layers.removed.map(({ digest, size }) => `- layer ${shortDigest(digest)}  ${formatBytes(size)}`),
      ...layers.added.map(({ digest, size }) => `+ layer ${shortDigest(digest)}  ${formatBytes(size)}`),
      ...removed.map(({ path }) => `- ${printable(path)}`),
      ...added.map(({ path }) => `+ ${printable(path)}`),
      ...changed.map(({ path, what }) => `~ ${printable(path)}  (${what.join(', ')})`),
      `${counted(layers.shared.length, 'layer')} shared (${sum(layers.shared)}), ${counted(added.length, 'path')} added, ${removed.length} removed, ${changed.length} changed`,
    ].join('\n');
  });
}

export function registerDiff(program: Command): void {
  program
    .command('diff')
    .argument('<a.clip>', 'the archive of the image before')
    .argument('<b.clip>', 'the archive of the image after')
    .description('compare the images of two archives: layers and files')
    .action(diff);
}
