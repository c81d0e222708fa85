import type { Command } from 'commander';
import { printable } from '../../bytes/index.js';
import type { CommonFlags } from '../common-flags.js';
import { locate } from '../daemon-flags.js';
import { printResult } from '../output.js';
import { describePrefetch } from './prefetch.js';

async function stats(flags: CommonFlags): Promise<void> {
  const { ClipdClient } = await import('../../client/index.js');
  const value = await new ClipdClient((await locate(flags)).root).stats();
  printResult(value, flags.json === true, () => {
    const lines = [
      `clipd ${value.health.version}, up ${value.health.uptime} s, ${value.health.restarts} server restarts, ` +
        `${value.health.mounts} mounts of ${value.connections.length} images`,
      `memory: server ${(value.memory.serverRss / 1e6).toFixed(0)} MB, keeper ${(value.memory.keeperRss / 1e6).toFixed(0)} MB`,
    ];
    for (const [group, numbers] of [
      ['fuse', value.fuse],
      ['counters', value.counters],
    ] as const) {
      for (const [name, number] of Object.entries(numbers)) lines.push(`${group}.${name}\t${number}`);
    }
    for (const { reference, plane, prefetches } of value.connections) {
      lines.push(`plane\t${printable(reference)}\t${plane.kind}\t${printable(plane.reason)}`);
      for (const one of prefetches) lines.push(`prefetch\t${reference}\t${describePrefetch(one)}`);
    }
    return lines.join('\n');
  });
}

export function registerStats(program: Command): void {
  program.command('stats').description('show how much clipd has fetched and served').action(stats);
}
