import { createRequire } from 'node:module';
import type { DestinationStream, Logger } from 'pino';
import { formatted, type LogForm, logFormOf } from './readable.js';
import { redact } from './redact.js';

export type { Logger };

export interface LogOptions {
  /** "trace" … "fatal" or "silent"; default "info". */
  readonly level?: string;
  /** Absolute path, appended to; default stderr. stdout is for results. */
  readonly file?: string;
  readonly name?: string;
}

/** Loaded with the first logger: a process that only counts never loads pino (docs/benchmarks.md, "Why these constants"). */
const pinoModule = (): typeof import('pino') => createRequire(import.meta.url)('pino') as typeof import('pino');

/** JSON lines; for people where standard error is a terminal. No line has secrets. It is synchronous, so that the lines before a crash are in the log after it. */
export function createLogger(options: LogOptions = {}): Logger {
  const { destination, pino } = pinoModule();
  const stream: DestinationStream = destination(
    options.file === undefined
      ? { dest: 2, sync: true }
      : { dest: options.file, sync: true, append: true, mkdir: true },
  );
  const form: LogForm = options.file === undefined ? logFormOf(2) : 'json';
  return pino(
    {
      level: options.level ?? 'info',
      ...(options.name === undefined ? {} : { name: options.name }),
      hooks: { streamWrite: (line) => formatted(redact(line), form) },
    },
    stream,
  );
}

/** For code without a logger. */
export function silentLogger(): Logger {
  return pinoModule().pino({ level: 'silent' });
}
