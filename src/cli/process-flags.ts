import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { ClipError } from '../bytes/index.js';
import type { Net, NetworkOptions, ProcessOptions, Volume } from '../container/index.js';
import { grouped } from './common-flags.js';
import { byteSize } from './numbers.js';

/** The flags that say how a container's process runs, of `run` and of `mount --cid`. */
export interface ProcessFlags {
  readonly env?: readonly string[];
  readonly envFile?: readonly string[];
  readonly volume?: readonly Volume[];
  readonly tmpfs?: readonly string[];
  readonly workdir?: string;
  readonly user?: string;
  readonly hostname?: string;
  readonly network?: Net;
  readonly publish?: readonly string[];
  readonly entrypoint?: string;
  readonly readOnly?: boolean;
  readonly memory?: number;
  readonly cpus?: number;
}

const repeated = (value: string, before: readonly string[] = []): readonly string[] => [...before, value];

/** "SRC:DST[:ro|rw]". A relative source is of the current directory. */
function volume(text: string, before: readonly Volume[] = []): readonly Volume[] {
  const [source = '', destination = '', mode = 'rw', ...rest] = text.split(':');
  if (source === '' || !destination.startsWith('/') || rest.length > 0 || (mode !== 'ro' && mode !== 'rw')) {
    throw new InvalidArgumentError('SRC:DST or SRC:DST:ro expected, DST an absolute path');
  }
  return [...before, { source: resolve(source), destination, readOnly: mode === 'ro' }];
}

function absolutePath(value: string, before: readonly string[] = []): readonly string[] {
  if (!value.startsWith('/')) throw new InvalidArgumentError('an absolute path of the container expected');
  return [...before, value];
}

function processors(text: string): number {
  const value = Number(text);
  // The scheduler's smallest quota is 1 ms of each 100 ms.
  if (!/^\d{1,4}(\.\d+)?$/.test(text) || value < 0.01) throw new InvalidArgumentError('a number from 0.01 expected');
  return value;
}

/** As docker: NAME=value, or NAME alone for this process's own value. */
function environment(flags: ProcessFlags): string[] {
  const pairs: string[] = [];
  const add = (pair: string): void => {
    if (pair.includes('=')) pairs.push(pair);
    else if (process.env[pair] !== undefined) pairs.push(`${pair}=${process.env[pair]}`);
  };
  for (const file of flags.envFile ?? []) {
    let text: string;
    try {
      text = readFileSync(file, 'utf8');
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException;
      throw new ClipError('NOT_FOUND', `cannot read the environment file ${file}: ${code}`, {
        cause,
        hint: 'give a file of lines NAME=value',
      });
    }
    for (const line of text.split('\n')) {
      const trimmed = line.trimStart();
      if (trimmed !== '' && !trimmed.startsWith('#')) add(trimmed.replace(/\r$/, ''));
    }
  }
  for (const pair of flags.env ?? []) add(pair);
  return pairs;
}

/** @param when said in the help: the command has other uses as well */
export function addProcessFlags(command: Command, when = ''): Command {
  return grouped(command, `The container${when}:`, (group) =>
    group
      .option('-e, --env <name=value>', "an environment variable (NAME alone: with clipctl's value)", repeated)
      .option('--env-file <file>', 'lines of NAME=value', repeated)
      .option('-v, --volume <src:dst>', 'a file or directory of this machine, :ro for read-only', volume)
      .option('--tmpfs <path>', 'a directory in memory; options after a colon: /run:size=64m', absolutePath)
      .option('-w, --workdir <dir>', "working directory (default: the image's)")
      .option('-u, --user <user>', "USER[:GROUP], names or numbers (default: the image's)")
      .option('--hostname <name>', 'its host name (default: the id)')
      .addOption(
        new Option('--net, --network <net>', 'the network (default: host; with -p, one of its own)').choices([
          ...['host', 'none', 'bridge', 'private'],
        ]),
      )
      .option(
        '-p, --publish <ports>',
        '[IP:]HOSTPORT:PORT[/udp]: a port of this machine leads to one of its own',
        repeated,
      )
      .option('--entrypoint <program>', "in place of the image's")
      .option('--read-only', 'its root cannot be written to')
      .option('-m, --memory <size>', 'memory at most, 512M', byteSize)
      .option('--cpus <n>', 'processors at most, 1.5', processors),
  );
}

export function networkOptions({ network, publish }: ProcessFlags): NetworkOptions {
  return { ...(network === undefined ? {} : { net: network }), ...(publish === undefined ? {} : { publish }) };
}

export function processOptions(flags: ProcessFlags, args: readonly string[]): ProcessOptions & NetworkOptions {
  return {
    ...(args.length === 0 ? {} : { args }),
    ...(flags.entrypoint === undefined ? {} : { entrypoint: flags.entrypoint }),
    ...(flags.workdir === undefined ? {} : { cwd: flags.workdir }),
    ...(flags.user === undefined ? {} : { user: flags.user }),
    ...(flags.hostname === undefined ? {} : { hostname: flags.hostname }),
    ...(flags.volume === undefined ? {} : { volumes: flags.volume }),
    ...(flags.tmpfs === undefined ? {} : { tmpfs: flags.tmpfs }),
    ...(flags.readOnly === undefined ? {} : { readOnly: flags.readOnly }),
    ...(flags.memory === undefined ? {} : { memory: flags.memory }),
    ...(flags.cpus === undefined ? {} : { cpus: flags.cpus }),
    env: environment(flags),
    ...networkOptions(flags),
  };
}
