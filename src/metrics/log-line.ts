import { writeSync } from 'node:fs';

const LEVELS = { info: 30, warn: 40, error: 50, fatal: 60 } as const;

/**
 * One line of the log, as pino writes it, without pino: for the keeper, which saves its memory, and for a server that ends because
 * its own files cannot be loaded.
 */
export function logLine(
  name: string,
  level: keyof typeof LEVELS,
  message: string,
  fields: Readonly<Record<string, unknown>> = {},
): void {
  const line = { level: LEVELS[level], time: Date.now(), pid: process.pid, name, ...fields, msg: message };
  try {
    writeSync(2, `${JSON.stringify(line)}\n`);
  } catch {
    // The log's reader has gone. A mount must not end for that.
  }
}
