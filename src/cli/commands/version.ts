import type { Command } from 'commander';
import { packageVersion } from '../../metrics/index.js';
import type { CommonFlags } from '../common-flags.js';
import { printResult } from '../output.js';

export function registerVersion(program: Command): void {
  program
    .command('version')
    .description('print the versions of clip, Node and the kernel')
    .action(async (flags: CommonFlags) => {
      const { release } = await import('node:os');
      const value = { clip: packageVersion(), node: process.versions.node, kernel: release() };
      printResult(value, flags.json === true, () => `clip ${value.clip} (node ${value.node}, linux ${value.kernel})`);
    });
}
