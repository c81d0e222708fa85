import { writeSync } from 'node:fs';

const LEVELS = { info: 30, warn: 40, error: 50 } as const;

/** The keeper's log: the JSON lines that pino writes in the server, without the 6 MB it takes to load it. */
export function logLine(level: keyof typeof LEVELS, message: string, fields: Record<string, unknown> = {}): void {
  const line = { level: LEVELS[level], time: Date.now(), pid: process.pid, name: 'keeper', ...fields, msg: message };
  try {
    writeSync(2, `${JSON.stringify(line)}\n`);
  } catch {
    // Whoever read our log has gone; a mount must not end for that.
  }
}
