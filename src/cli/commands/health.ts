import type { Command } from 'commander';
import { ClipError, counted } from '../../bytes/index.js';
import type { CommonFlags } from '../common-flags.js';
import { locate } from '../daemon-flags.js';
import { failed, printResult } from '../output.js';

async function health(flags: CommonFlags): Promise<void> {
  const { ClipdClient } = await import('../../client/index.js');
  const value = await new ClipdClient((await locate(flags)).root).health().catch((error: unknown) => {
    throw error instanceof ClipError ? failed(error) : error;
  });
  printResult(
    value,
    flags.json === true,
    () => `ok: clipd ${value.version} at ${value.root}, up ${value.uptime} s, ${counted(value.mounts, 'mount')}`,
  );
}

export function registerHealth(program: Command): void {
  program.command('health').description('check that clipd answers; exit code 1 if it does not').action(health);
}
