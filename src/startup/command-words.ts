import { shellWords } from './shell-words.js';

/** What a command may name: longer ones are lists of data. */
const MAX_WORDS = 64;
const MAX_FOUND = 64;
const MAX_WORD = 4096;
const SHELL = /(?:^|\/)(?:ba|da|a|k|z)?sh$/;
/** `-cp /a.jar:/b.jar`, `--config=/etc/x`, `-I/usr/include`. */
const PATHS = /(?:^|[:=,]|^-[A-Za-z])(\/[^:=,\s]+)/g;

/**
 * Programs that run the program which their arguments name, by glibc's, util-linux's and coreutils' manuals; those of containers and
 * of init systems beside them.
 */
const RUNS_ANOTHER = new Set(
  (
    'env chroot nice nohup timeout stdbuf time setpriv setsid setarch linux64 unshare nsenter ionice chrt taskset prlimit flock runuser capsh ' +
    'numactl sudo doas gosu su-exec setuidgid s6-setuidgid chpst tini docker-init dumb-init catatonit xargs strace ltrace exec busybox eatmydata ' +
    'fakeroot faketime xvfb-run dbus-run-session'
  ).split(' '),
);

/** Whether a program runs another one, which its arguments name. */
export function runsAnother(program: string): boolean {
  return RUNS_ANOTHER.has(program.slice(program.lastIndexOf('/') + 1));
}

/** A file that a command names. */
export interface CommandWord {
  readonly word: string;
  /** It may be a program without a directory, to be looked for in PATH. */
  readonly program: boolean;
}

/**
 * The files that a command may name, in the order in which they will be read: its program, paths among its arguments, and the programs of a line
 * for a shell. `env` and its like are followed by a program, which is looked for among the arguments as well.
 */
export function commandWords(argv: readonly string[]): CommandWord[] {
  const found = new Map<string, CommandWord>();
  const add = (word: string, program: boolean): void => {
    if (found.size < MAX_FOUND && !found.has(word)) found.set(word, { word, program });
  };
  for (const [i, word] of argv.slice(0, MAX_WORDS).entries()) {
    if (word === '' || word.length > MAX_WORD) continue;
    if (/\s/.test(word)) {
      const line = argv[i - 1] === '-c' && SHELL.test(argv[i - 2] ?? '');
      for (const part of shellWords(word)) if (line || part.startsWith('/')) add(part, line);
    } else if (word.startsWith('-') || word.includes(':') || word.includes('=')) {
      for (const [, path] of word.matchAll(PATHS)) add(path!, false);
    } else add(word, true);
  }
  return [...found.values()];
}
