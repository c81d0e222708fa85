import type { Command } from 'commander';
import { ClipError } from '../bytes/index.js';
import { namesOf, wordsOf } from './operand.js';

/** Words of docker, mount(8) and the like, by the command that they stand behind, and what they are here. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  exec: 'runc exec ID COMMAND runs a command in a container; clipctl ps lists them',
  stop: 'clipctl umount --cid ID --force ends a container',
  kill: 'clipctl umount --cid ID --force ends a container',
  rm: 'clipctl umount --cid ID takes a container down; clipctl archives rm IMAGE removes an archive',
  rmi: 'clipctl archives rm IMAGE removes an archive',
  logs: 'the output of a container in the background is output.log in CACHE/containers (clipctl help run)',
  images: 'clipctl archives ls lists the images that are indexed; clipctl ps what is mounted',
  info: 'clipctl doctor examines this machine; clipctl stats shows what clipd does',
  status: 'clipctl health says whether clipd answers; clipctl stats shows what it does',
  login: 'clipctl uses the logins of docker login and podman login; or --creds USER:PASSWORD',
  start: 'a mount starts clipd by itself; clipctl daemon runs it in the foreground',
  build: 'clipctl reads images that exist; docker, podman and buildkit build them',
  '-v': 'clipctl --version',
  'mount -o': 'mounts are read-only; --suid and --dev allow what nosuid and nodev forbid',
  'mount -t': 'no type is needed: clipctl mount FILE|IMAGE DIR',
  'ls -a': 'every file is listed anyway',
  'cache clear': 'clipctl cache prune frees what is not mounted, with --mounted all',
  'cache rm': 'clipctl cache prune frees what is not mounted, with --mounted all',
  'cache clean': 'clipctl cache prune frees what is not mounted, with --mounted all',
  'daemon start': 'clipctl daemon runs it in the foreground; a mount starts one by itself',
  'daemon stop': 'clipctl daemon --stop',
  'daemon restart': 'clipctl daemon --upgrade replaces its server, and mounts stay',
  'daemon upgrade': 'clipctl daemon --upgrade',
  'profile start': 'each mount is recorded for its first 60 s; clipctl profile stop DIR ends that',
};

let last: ClipError | null = null;

/** The error that Commander has ended with, as one of ours. */
export function usageError(): ClipError | null {
  return last;
}

/** Commander prints nothing itself: what it says is kept, with the next step. */
export function keepUsageErrors(command: Command): void {
  command.configureOutput({
    outputError: (text) => {
      const [first = '', ...more] = text.trim().split('\n');
      const message = first.replace(/^error: /, '');
      const excess = message.startsWith('too many arguments')
        ? command.args[command.registeredArguments.length]
        : undefined;
      const word = excess ?? /^unknown (?:command|option) '([^']+)'/.exec(message)?.[1] ?? '';
      const similar = /\((Did you mean .*\?)\)/.exec(more.join(' '))?.[1];
      const help =
        command.parent === null
          ? 'clipctl help lists the commands'
          : `${wordsOf(command)} --help shows its arguments and flags`;
      const written = wordsOf(command) === 'clipctl index' && excess?.endsWith('.clip') === true;
      const elsewhere = written ? `clipctl index IMAGE -o ${excess}` : ELSEWHERE[[...namesOf(command), word].join(' ')];
      last = new ClipError('USAGE', excess === undefined ? message : `unexpected argument: ${excess}`, {
        hint: elsewhere ?? (similar === undefined ? help : `${similar} ${help}`),
      });
    },
  });
}
