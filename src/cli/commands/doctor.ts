import type { Command } from 'commander';
import { counted, printable } from '../../bytes/index.js';
import type { Finding } from '../../doctor/index.js';
import type { CommonFlags } from '../common-flags.js';
import { locate } from '../daemon-flags.js';
import { EXIT_FAILED, printResult } from '../output.js';
import { addRegistryFlags, credentialsFrom, type RegistryFlags } from '../registry-flags.js';

interface Flags extends CommonFlags, RegistryFlags {
  readonly platform?: string;
}

const MARKS = { ok: 'ok', limited: '--', failed: 'NO' } as const;

/** A clipd that runs is asked for its version: an old one goes on after an upgrade. */
async function daemonFinding(root: string): Promise<Finding> {
  const [{ ClipdClient, NotRunningError }, { packageVersion }] = await Promise.all([
    import('../../client/index.js'),
    import('../../metrics/index.js'),
  ]);
  try {
    const { version, mounts, keeperPid } = await new ClipdClient(root).health();
    const found = `version ${version}, process ${keeperPid}, ${counted(mounts, 'mount')}`;
    if (version === packageVersion()) return { name: 'clipd', status: 'ok', found };
    return { name: 'clipd', status: 'limited', found, hint: 'another version than clipctl: clipctl daemon --upgrade' };
  } catch (error) {
    if (error instanceof NotRunningError)
      return { name: 'clipd', status: 'ok', found: 'none runs: the first mount starts one' };
    return { name: 'clipd', status: 'failed', found: (error as Error).message, hint: `its log is ${root}/clipd.log` };
  }
}

async function doctor(reference: string | undefined, flags: Flags): Promise<void> {
  const { examineMachine, works } = await import('../../doctor/index.js');
  const { root, cacheDir } = await locate(flags);
  const machine = [...examineMachine({ root, cacheDir }), await daemonFinding(root)];
  const registry: Finding[] = [];
  if (reference !== undefined) {
    const { examineRegistry, parsePlatform } = await import('../../oci/index.js');
    const options = {
      credentials: credentialsFrom(flags),
      plainHttp: flags.plainHttp,
      platform: flags.platform === undefined ? undefined : parsePlatform(flags.platform),
    };
    for await (const finding of examineRegistry(reference, options)) registry.push(finding);
  }
  const good = works([...machine, ...registry]);
  const value = { works: good, machine, ...(reference === undefined ? {} : { reference, registry }) };
  printResult(value, flags.json === true, () => {
    const lines = (findings: readonly Finding[]): string[] =>
      findings.flatMap((finding) => {
        const { name, status, found, hint } = finding;
        const line = `${MARKS[status]}  ${name.padEnd(16)}  ${printable(found)}`;
        return hint === undefined ? [line] : [line, `${' '.repeat(22)}${printable(hint)}`];
      });
    return [
      ...lines(machine),
      ...(registry.length === 0 ? [] : ['', `${printable(reference ?? '')}:`, ...lines(registry)]),
      '',
      good ? 'clip works here.' : 'clip does not work like this: see the lines with NO.',
    ].join('\n');
  });
  if (!good) process.exitCode = EXIT_FAILED;
}

export function registerDoctor(program: Command): void {
  const command = program
    .command('doctor')
    .argument('[ref]', 'an image in a registry: the way to it is examined, too')
    .description('examine this machine, and the way to an image; exit code 1 if clip would not work')
    .option('--platform <os/arch>', "which image of a multi-platform one (default: this machine's)");
  addRegistryFlags(command).action(doctor);
}
