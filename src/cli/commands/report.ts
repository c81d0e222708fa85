import type { Command } from 'commander';
import { counted } from '../../bytes/index.js';
import type { JourneyReply } from '../../wire/index.js';
import type { CommonFlags } from '../common-flags.js';
import { locate } from '../daemon-flags.js';
import { mountedPlace } from '../mounted-place.js';
import { printResult } from '../output.js';
import { formatSeconds } from '../units.js';

interface Flags extends CommonFlags {
  readonly out: string;
}

function startedLine({ firstExec, firstOutput }: JourneyReply): string[] {
  const told = [
    ['first exec', firstExec],
    ['first output', firstOutput],
  ] as const;
  const parts = told.flatMap(([name, at]) => (typeof at === 'number' ? [`${name} ${formatSeconds(at / 1000)}`] : []));
  return parts.length === 0 ? [] : [`  ${parts.join(', ')} after the mount`];
}

async function report(target: string, flags: Flags): Promise<void> {
  const [{ findJourney, journeyPage, summaryOf }, { writeFileSync }] = await Promise.all([
    import('../../report/index.js'),
    import('node:fs'),
  ]);
  const { root, cacheDir } = await locate(flags);
  const place = await mountedPlace(target, flags);
  const journey = await findJourney({ root, cacheDir, place });
  const page = journeyPage(journey);
  writeFileSync(flags.out, page, { mode: 0o600 });
  const summary = summaryOf(journey);
  printResult(
    {
      out: flags.out,
      bytes: Buffer.byteLength(page),
      firstExec: journey.firstExec,
      firstOutput: journey.firstOutput,
      ...summary,
    },
    flags.json === true,
    () =>
      [
        `${flags.out}: ${counted(summary.reads, 'read')} that waited, ${summary.fetches} ${summary.fetches === 1 ? 'fetch' : 'fetches'} of ${journey.reference}`,
        ...startedLine(journey),
        ...summary.advice.map((line) => `  ${line}`),
      ].join('\n'),
  );
}

export function registerReport(program: Command): void {
  program
    .command('report')
    .argument('<dir|id>', 'a mount point or a container; it may have ended up to a day ago')
    .description('draw what a mount read, fetched and waited for, as one page for a browser')
    .requiredOption('--out <file>', 'the page to write')
    .action(report);
}
