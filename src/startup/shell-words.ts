const MAX_WORDS = 512;
/** A word where a command may stand: at the start of a line, behind what ends a command, or a keyword. `JAVA=java` counts as well. */
const COMMAND =
  /(?<=^[ \t]{0,40}|[;|&()`=][ \t]{0,9}|\b(?:then|do|else|if|elif|while|until|exec|command|nohup|env|!)[ \t])([A-Za-z_][\w.+-]{1,40})(?=[\s;|&)`"]|$)/gm;
/** A file by its path, such as one that is read with ".". */
const PATH = /(?:^|[\s"'`=;(])(\/[\w.+@-]+(?:\/[\w.+@-]+)+)(?=[\s"'`;)]|$)/gm;
/** Keywords, and the commands that shells run themselves (POSIX, XCU 2.15; bash and dash have the others). */
const BUILTIN = new Set(
  (
    'if then else elif fi do done case esac while until for in function select time break continue eval exec exit export ' +
    'readonly return set shift times trap unset alias bg cd command false fg getopts hash jobs kill local pwd read true type ' +
    'ulimit umask unalias wait echo test printf declare let source shopt builtin typeset'
  ).split(' '),
);

/** The programs that a shell's text runs, and the absolute paths in it, in their order, each once. */
export function shellWords(text: string): string[] {
  const found: { at: number; word: string }[] = [];
  for (const pattern of [COMMAND, PATH]) {
    for (const match of text.matchAll(pattern)) {
      if (found.length >= MAX_WORDS) break;
      if (!BUILTIN.has(match[1]!)) found.push({ at: match.index, word: match[1]! });
    }
  }
  return [...new Set(found.sort((a, b) => a.at - b.at).map(({ word }) => word))];
}
