import { ClipError, printable, printableJson, printableText } from '../bytes/index.js';

/** Exit codes: 0, 1 (failed), 2 (usage): docs/cli.md, "clipctl". */
export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;
/** Of `clipctl run`: the container did not start (docker's). */
export const EXIT_NOT_RUN = 125;

/**
 * Results go to stdout: as one JSON document, or as the lines that `text` makes. Both may hold names and texts out of an image,
 * which must not control the terminal.
 */
export function printResult(value: unknown, json: boolean, text: () => string): void {
  const out = json ? printableJson(value, 2) : printableText(text());
  if (out !== '') process.stdout.write(out.endsWith('\n') ? out : `${out}\n`);
}

/**
 * A path that scripts use, `cd "$(clipctl mount …)"`: exactly as it is, unless a terminal would have to show it.
 */
export function printPath(value: object, json: boolean, path: string): void {
  if (json || process.stdout.isTTY) printResult(value, json, () => printable(path));
  else process.stdout.write(`${path}\n`);
}

/** One line on stderr beside the result. */
export function printNote(kind: 'note' | 'warning' | null, text: string): void {
  process.stderr.write(`clipctl: ${kind === null ? '' : `${kind}: `}${printable(text)}\n`);
}

/** One line with the thing and the cause, one with the next step. The chain of causes only with --verbose. */
export function printError(error: unknown, verbose: boolean): void {
  const known = error instanceof ClipError;
  const message = error instanceof Error ? error.message : String(error);
  process.stderr.write(`clipctl: ${printable(message.replaceAll('\n', ' '))}\n`);
  if (known && error.hint) process.stderr.write(`  ${printable(error.hint)}\n`);
  if (verbose || !known) {
    for (let e: unknown = error; e instanceof Error; e = e.cause)
      process.stderr.write(`${printableText(e.stack ?? e.message)}\n`);
  }
}

export function exitCodeOf(error: unknown): number {
  return error instanceof ClipError && error.code === 'USAGE' ? EXIT_USAGE : EXIT_FAILED;
}
