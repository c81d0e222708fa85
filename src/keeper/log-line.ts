import { writeSync } from 'node:fs';

const LEVELS = { info: 30, warn: 40, error: 50 } as const;

/** The keeper's log: the same JSON lines as pino writes in the server, without pino's memory. */
export function logLine(level: keyof typeof LEVELS, message: string, fields: Record<string, unknown> = {}): void {
  const line = { level: LEVELS[level], time: Date.now(), pid: process.pid, name: 'keeper', ...fields, msg: message };
  try {
    writeSync(2, `${JSON.stringify(line)}\n`);
  } catch {
    // The log's reader has gone. A mount must not end for that.
  }
}
