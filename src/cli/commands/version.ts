import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import type { CommonFlags } from '../common-flags.js';
import { printResult } from '../output.js';

/** Put in by scripts/bundle.mjs. */
declare const CLIP_VERSION: string | undefined;

/** The version in the package's own package.json. */
export function packageVersion(): string {
  if (typeof CLIP_VERSION === 'string') return CLIP_VERSION;
  const url = new URL('../../../../package.json', import.meta.url);
  return (JSON.parse(readFileSync(url, 'utf8')) as { version: string }).version;
}

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
