export { createLogger, type Logger, type LogOptions, silentLogger } from './log.js';
export { Counter, Metrics } from './registry.js';
export { packageVersion } from './version.js';
