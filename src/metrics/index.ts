/**
 * Counters, gauges, the logger and the package's version. Names and meanings of counters belong to the folders that count.
 * Imports nothing. Runs in every process; each process has its own counters.
 */

export { createLogger, type Logger, type LogOptions, silentLogger } from './log.js';
export { LOG_NAME, logEntry, logLine } from './log-line.js';
export { Counter, Metrics } from './registry.js';
export { packageVersion } from './version.js';
