import { ClipError, EXIT_CODES, printable, printableJson, printableText } from '../bytes/index.js';
import type { CommonFlags, LogLevel, ProgressStyle } from './common-flags.js';

export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;
/** Of `clipctl run`: the container did not start (docker's). */
export const EXIT_NOT_RUN = 125;

const output = {
  json: false,
  level: 'info' as LogLevel,
  progress: 'auto' as ProgressStyle,
  /** The login is of the command line, and not of the places where `docker login` leaves one. */
  creds: false,
  /** A document was printed: stdout gets no second one. */
  written: false,
};

export function logLevelOf(flags: CommonFlags): LogLevel {
  return flags.logLevel ?? (flags.verbose === true ? 'debug' : flags.quiet === true ? 'warn' : 'info');
}

/** How this process prints from now on. */
export function setOutput(flags: CommonFlags & { readonly creds?: unknown }): void {
  output.creds = flags.creds !== undefined;
  output.json = flags.json === true;
  output.level = logLevelOf(flags);
  output.progress = flags.progress ?? (flags.quiet === true ? 'none' : 'auto');
}

export function progressStyle(): ProgressStyle {
  return output.progress;
}

/**
 * Results go to stdout: as one JSON document, or as the lines that `text` makes. Both may hold names and texts out of an image,
 * which must not control the terminal.
 */
export function printResult(value: unknown, json: boolean, text: () => string): void {
  if (json) output.written = true;
  const out = json ? printableJson(value, 2) : printableText(text());
  if (out !== '') process.stdout.write(out.endsWith('\n') ? out : `${out}\n`);
}

/** A result with which the command fails: the error is part of the document, and is to be thrown after this. */
export function printFailedResult(value: object, error: ClipError, json: boolean, text: () => string): void {
  printResult({ ...value, error: described(error) }, json, text);
}

/**
 * A path that scripts use, `cd "$(clipctl mount …)"`: exactly as it is, unless a terminal would have to show it.
 */
export function printPath(value: object, json: boolean, path: string): void {
  if (json || process.stdout.isTTY) printResult(value, json, () => printable(path));
  else process.stdout.write(`${path}\n`);
}

const NOTED: Readonly<Record<'note' | 'warning', readonly string[]>> = {
  note: ['debug', 'info'],
  warning: ['debug', 'info', 'warn'],
};

/** One line on stderr beside the result. */
export function printNote(kind: 'note' | 'warning' | null, text: string): void {
  if (!NOTED[kind ?? 'note'].includes(output.level)) return;
  process.stderr.write(`clipctl: ${kind === null ? '' : `${kind}: `}${printable(text)}\n`);
}

function described(error: unknown): { code: string; message: string; hint: string | null } {
  const { message } = error instanceof Error ? error : { message: String(error) };
  const known = error instanceof ClipError;
  const hint = known ? error.hint : undefined;
  const wrongCreds = known && error.code === 'UNAUTHORIZED' && output.creds && hint?.includes('docker login') === true;
  return {
    code: known ? error.code : 'SYSTEM',
    message: message.replaceAll('\n', ' '),
    hint:
      (wrongCreds
        ? 'check the user name, the password and the name of the image: --creds was used, and no other login'
        : hint) || null,
  };
}

/** With `--json`: the failure as a document on stdout, unless a result stands there already. */
export function printJsonError(error: unknown): void {
  if (output.json && !output.written) printResult({ error: described(error) }, true, () => '');
}

/** One line with the thing and the cause, one with the next step. The chain of causes only with --verbose. */
export function printError(error: unknown): void {
  const known = error instanceof ClipError;
  const { message, hint } = described(error);
  printJsonError(error);
  process.stderr.write(`clipctl: ${printable(message)}\n`);
  if (hint !== null) process.stderr.write(`  ${printable(hint)}\n`);
  if (output.level === 'debug' || !known) {
    for (let e: unknown = error; e instanceof Error; e = e.cause)
      process.stderr.write(`${printableText(e.stack ?? e.message)}\n`);
  }
}

/** Errors that are the answer no, and not a failure to answer. */
const answers = new WeakSet<object>();

/** An error that is what its command was asked to find out: exit code 1, as of grep and diff. */
export function failed(error: ClipError): ClipError {
  answers.add(error);
  return error;
}

export function exitCodeOf(error: unknown): number {
  return error instanceof ClipError && !answers.has(error) ? EXIT_CODES[error.code] : EXIT_FAILED;
}

/** Of `run`: docker's codes. */
export function exitCodeOfRun(error: unknown): number {
  return (error as { exitCode?: number }).exitCode ?? EXIT_NOT_RUN;
}
