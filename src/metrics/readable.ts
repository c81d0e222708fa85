import { fstatSync } from 'node:fs';
import { isatty } from 'node:tty';

const NAMES: Readonly<Record<number, string>> = {
  10: 'trace',
  20: 'debug',
  30: 'info',
  40: 'warn',
  50: 'error',
  60: 'fatal',
};
/** sd-daemon(3): what a line of standard error begins with for journald to know its priority. */
const PRIORITIES: Readonly<Record<number, number>> = { 10: 7, 20: 7, 30: 6, 40: 4, 50: 3, 60: 2 };
const COLORS: Readonly<Record<number, string>> = { 40: '\x1b[33m', 50: '\x1b[31m', 60: '\x1b[31m' };

/** How lines of the log are shown: to programs, to people, to journald. */
export type LogForm = 'json' | 'pretty' | 'journal';

/** For a descriptor. systemd sets JOURNAL_STREAM to the device and inode of the one that it reads (systemd.exec(5)). */
export function logFormOf(fd: number, env: NodeJS.ProcessEnv = process.env): LogForm {
  if (isatty(fd)) return 'pretty';
  try {
    const { dev, ino } = fstatSync(fd);
    return env.JOURNAL_STREAM === `${dev}:${ino}` ? 'journal' : 'json';
  } catch {
    return 'json';
  }
}

/** A line of JSON in that form, with its end. */
export function formatted(line: string, form: LogForm): string {
  if (form === 'json') return line;
  let parsed: Record<string, unknown>;
  try {
    parsed = JSON.parse(line) as Record<string, unknown>;
  } catch {
    return line;
  }
  const level = Number(parsed.level);
  if (form === 'journal') return `<${PRIORITIES[level] ?? 6}>${line}`;
  const { level: _, time, pid: __, name, msg, ...fields } = parsed;
  const clock = new Date(Number(time)).toTimeString().slice(0, 8);
  const color = COLORS[level] ?? '';
  const rest = Object.entries(fields).map(([key, value]) => `${key}=${shown(value)}`);
  return `${[clock, `${color}${(NAMES[level] ?? String(level)).padEnd(5)}${color === '' ? '' : '\x1b[0m'}`, `${String(name)}:`, printableText(String(msg)), ...rest].join(' ')}\n`;
}

function shown(value: unknown): string {
  if (typeof value === 'string') return printableText(/^[\w./:@+-]+$/.test(value) ? value : JSON.stringify(value));
  return printableText(JSON.stringify(value));
}

/** Names out of an image must not control the terminal. */
function printableText(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is taken out
  return text.replaceAll(/[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]/g, '?');
}
