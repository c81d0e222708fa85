import { type DestinationStream, destination, type Logger, pino } from 'pino';

export type { Logger };

export interface LogOptions {
  /** "trace" … "fatal" or "silent"; default "info". */
  readonly level?: string;
  /** Absolute path, appended to; default stderr. stdout is for results. */
  readonly file?: string;
  readonly name?: string;
}

/** A JSON-lines logger. Synchronous: a line written before a crash is a line that can be read after it. */
export function createLogger(options: LogOptions = {}): Logger {
  const stream: DestinationStream = destination(
    options.file === undefined
      ? { dest: 2, sync: true }
      : { dest: options.file, sync: true, append: true, mkdir: true },
  );
  return pino(
    { level: options.level ?? 'info', ...(options.name === undefined ? {} : { name: options.name }) },
    stream,
  );
}

/** For code that was given no logger. */
export function silentLogger(): Logger {
  return pino({ level: 'silent' });
}
