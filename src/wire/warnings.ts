/** A line of the log, of level warn or above: why reads failed, what clipd does without. */
export interface RecentWarning {
  /** ISO 8601. */
  readonly time: string;
  readonly level: 'warn' | 'error' | 'fatal';
  readonly message: string;
  /** What the line is about: image, mount, layer, error. */
  readonly fields: Readonly<Record<string, unknown>>;
}

/** The numbers that pino writes. */
const LEVELS: Readonly<Record<number, RecentWarning['level']>> = { 40: 'warn', 50: 'error', 60: 'fatal' };

/** Of every line, and told by nothing else. */
const OF_EVERY_LINE = new Set(['level', 'time', 'msg', 'pid', 'hostname', 'name']);

/** Null for a line below warn, or one that is no log line. */
export function parseWarning(line: string): RecentWarning | null {
  let value: Record<string, unknown>;
  try {
    value = Object(JSON.parse(line)) as Record<string, unknown>;
  } catch {
    return null;
  }
  const level = LEVELS[Number(value.level)];
  const time = Number(value.time);
  if (level === undefined || !Number.isFinite(time)) return null;
  const fields = Object.fromEntries(Object.entries(value).filter(([name]) => !OF_EVERY_LINE.has(name)));
  return { time: new Date(time).toISOString(), level, message: String(value.msg ?? ''), fields };
}
