import { writeSync } from 'node:fs';
import { formatted, logFormOf } from './readable.js';
import { redact } from './redact.js';

const LEVELS = { info: 30, warn: 40, error: 50, fatal: 60 } as const;

/** The log of a clipd that a mount has started, in the root. */
export const LOG_NAME = 'clipd.log';

/** A line of the log, as pino writes it, without secrets. */
export function logEntry(
  name: string,
  level: keyof typeof LEVELS,
  message: string,
  fields: Readonly<Record<string, unknown>> = {},
): string {
  const line = { level: LEVELS[level], time: Date.now(), pid: process.pid, name, ...fields, msg: message };
  return redact(`${JSON.stringify(line)}\n`);
}

/**
 * Writes a line of the log without pino: for the keeper, which saves its memory, and for a server that ends because
 * its own files cannot be loaded.
 */
export function logLine(
  name: string,
  level: keyof typeof LEVELS,
  message: string,
  fields: Readonly<Record<string, unknown>> = {},
): void {
  try {
    writeSync(2, formatted(logEntry(name, level, message, fields), logFormOf(2)));
  } catch {
    // The log's reader has gone. A mount must not end for that.
  }
}
